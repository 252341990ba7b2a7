"""Files of Hugging Face repositories through huggingface_hub, which resumes and honours HF_* variables and proxies."""

import functools
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

from novelview.downloads.address import HubAddress
from novelview.downloads.verify import mismatch
from novelview.errors import DataError
from novelview.files import replacing

log = logging.getLogger(__name__)

ATTEMPTS = 5
LONGEST_WAIT = 60.0
DIGEST = re.compile(r"[0-9a-f]{64}")
FINAL = (400, 401, 403, 404, 410, 416)
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Remote:
    """One file of a set: its path in the set, its size in bytes and its digest (see `verify.mismatch`), where known."""

    path: str
    size: int | None = None
    digest: str | None = None


def endpoint() -> str | None:
    """The hub's address, HF_ENDPOINT where set, read when asked for."""
    return os.environ.get("HF_ENDPOINT") or None


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids asking the network."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE) or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


@functools.cache
def _api(address: str | None) -> Any:
    from huggingface_hub import HfApi  # half a second to import, and most fetches do without

    return HfApi(endpoint=address, library_name="novelview")


def hub() -> Any:
    """Return the client for `endpoint()`; its token is HF_TOKEN or what `hf auth login` stored."""
    return _api(endpoint())


def commit_of(address: HubAddress) -> str:
    """Return the commit that the address' revision names now. Raises DataError, one line."""
    return patiently(
        address, lambda: hub().repo_info(address.repo, repo_type=address.repo_type, revision=address.revision).sha
    )


def file_facts(address: HubAddress, commit: str) -> Remote:
    """Return size and digest the hub gives for the file `address.path`; raises DataError when there is none."""
    found = patiently(
        address,
        lambda: hub().get_paths_info(address.repo, [address.path], revision=commit, repo_type=address.repo_type),
    )
    files = [_remote(item) for item in found if hasattr(item, "blob_id")]
    if not files:
        raise DataError(f"{address}: no such file in the repository; see {address.page}")
    return files[0]


def list_files(address: HubAddress, commit: str, patterns: Sequence[str]) -> list[Remote]:
    """Return the files below the folder `address.path` whose paths, relative to it, match a pattern, sorted."""
    items = patiently(address, lambda: _tree(address, commit))
    prefix = f"{address.path}/" if address.path else ""
    found = {item.path.removeprefix(prefix): _remote(item) for item in items if hasattr(item, "blob_id")}
    return [
        Remote(path, facts.size, facts.digest)
        for path, facts in sorted(found.items())
        if any(fnmatchcase(path, pattern) for pattern in patterns)
    ]


def _tree(address: HubAddress, commit: str) -> list[Any]:
    asked = {"revision": commit, "repo_type": address.repo_type, "recursive": True}
    listed: Iterable[Any] = hub().list_repo_tree(address.repo, address.path or None, **asked)
    return list(listed)


def _remote(item: Any) -> Remote:
    return Remote(item.path, item.size, item.lfs.sha256 if item.lfs else f"git:{item.blob_id}")


def download_file(address: HubAddress, commit: str, facts: Remote, path: Path, staging: Path) -> None:
    """Fetch the file `address.path` at `commit` to `path`, verified against `facts`; a rest waits in `staging`."""
    from huggingface_hub import hf_hub_download

    given = {"repo_type": address.repo_type, "revision": commit, "local_dir": staging, "endpoint": endpoint()}
    found = Path(patiently(address, lambda: hf_hub_download(address.repo, address.path, **given)))
    wrong = mismatch(found, facts.digest, facts.size)
    if wrong:
        found.unlink()
        raise DataError(f"{address}: what arrived has {wrong}; it was deleted, try again later")
    path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(found, path)


def from_cache(address: HubAddress, path: Path) -> None:
    """Copy the file from huggingface_hub's own cache to `path`; raises DataError when it is not there."""
    found = _from_cache(address)
    with replacing(path) as partial:
        shutil.copyfile(found, partial)


def cached_file(address: HubAddress) -> Path:
    """Return the file `address.path` in huggingface_hub's own cache, fetched unless HF_HUB_OFFLINE is set.

    Its bytes are compared with the digest the hub names it by. Raises DataError, one line, when it cannot be had.
    """
    from huggingface_hub import hf_hub_download

    given = {"repo_type": address.repo_type, "revision": address.revision, "endpoint": endpoint()}
    if is_offline():
        return _from_cache(address)
    found = Path(patiently(address, lambda: hf_hub_download(address.repo, address.path, **given)))
    stored = found.resolve()
    wrong = mismatch(stored, stored.name, None) if DIGEST.fullmatch(stored.name) else None
    if wrong:
        stored.unlink()
        raise DataError(f"{address}: what arrived has {wrong}; it was deleted, try again later")
    return found


def _from_cache(address: HubAddress) -> Path:
    from huggingface_hub import try_to_load_from_cache

    given = {"repo_type": address.repo_type, "revision": address.revision}
    found = try_to_load_from_cache(address.repo, address.path, **given)
    if not isinstance(found, str):
        raise DataError(f"{address}: not fetched: HF_HUB_OFFLINE is set; unset it where there is a network")
    return Path(found)


def patiently(address: HubAddress, call: Callable[[], Answer], failed: str = "not fetched") -> Answer:
    """Call the hub, again after a while when the reason may pass; raises DataError, one line, when it did not."""
    if is_offline():
        raise DataError(f"{address}: not fetched: HF_HUB_OFFLINE is set; unset it where there is a network")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return call()
        except Exception as error:  # its own, the HTTP library's, the operating system's: all mean that it failed
            reason = _reason(address, error)
            if _is_final(error) or attempt == ATTEMPTS:
                raise DataError(f"{address}: {failed}: {reason}") from None
            log.warning("%s: %s; attempt %d of %d follows", address, reason, attempt + 1, ATTEMPTS)
            time.sleep(min(2.0 ** (attempt - 1), LONGEST_WAIT))
    raise AssertionError("the last attempt returns or raises")


def _is_final(error: Exception) -> bool:
    from huggingface_hub.errors import FileMetadataError, LocalEntryNotFoundError

    status = getattr(getattr(error, "response", None), "status_code", None)
    full = isinstance(error, OSError) and error.errno is not None and error.errno in (13, 28, 30)
    unreached = isinstance(error, LocalEntryNotFoundError)
    foreign = isinstance(error, ValueError | FileMetadataError)  # an address that is none, a server that is no hub
    return not unreached and (full or foreign or status in FINAL)


def _reason(address: HubAddress, error: Exception) -> str:
    from huggingface_hub.errors import GatedRepoError

    text = " ".join(str(error).split())[:300] or type(error).__name__
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, GatedRepoError):
        return f"gated: accept the terms at {address.page}, then `hf auth login` or set HF_TOKEN"
    if status in (401, 403):
        return f"{text}; if it is private or gated, `hf auth login` or set HF_TOKEN"
    return text
