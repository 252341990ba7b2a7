"""Files of Hugging Face repositories through huggingface_hub, which resumes and honours HF_* variables and proxies."""

import functools
import logging
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from novelview.downloads.registry import HubAddress
from novelview.downloads.transfer import Answer, TryAgain, mismatch, retry
from novelview.errors import ConfigError, DataError

log = logging.getLogger(__name__)

ATTEMPTS = 5
DIGEST = re.compile(r"[0-9a-f]{64}")
FINAL = (400, 401, 403, 404, 410, 416)


@dataclass(frozen=True)
class Remote:
    """One file of a set: its path in the set, its size in bytes and its digest (see `mismatch`), where known."""

    path: str
    size: int | None = None
    digest: str | None = None


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids asking the network."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE) or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _offline(address: HubAddress) -> DataError:
    return DataError(f"{address}: not fetched: HF_HUB_OFFLINE is set; unset it where there is a network")


@functools.cache
def _client(endpoint: str | None) -> Any:
    from huggingface_hub import HfApi  # half a second to import, and most fetches do without

    return HfApi(endpoint=endpoint, library_name="novelview")


def ask_hub(address: HubAddress, call: Callable[[Any], Answer], failed: str = "not fetched") -> Answer:
    """Return what `call` returns for the hub's client; again after a while when it failed for a reason that may pass.

    The client's token is HF_TOKEN or what `hf auth login` stored. Raises DataError, one line, when it did not succeed.
    """
    if is_offline():
        raise _offline(address)

    def attempt() -> Answer:
        try:
            return call(_client(os.environ.get("HF_ENDPOINT") or None))
        except Exception as error:  # its own, the HTTP library's, the operating system's: all mean that it failed
            reason, final = _judge(address, error)
            raise (DataError(f"{address}: {failed}: {reason}") if final else TryAgain(f"{failed}: {reason}")) from None

    return retry(address, ATTEMPTS, attempt)


def _judge(address: HubAddress, error: Exception) -> tuple[str, bool]:
    """Return in words why a call failed, and whether it would fail again."""
    from huggingface_hub.errors import FileMetadataError, GatedRepoError, LocalEntryNotFoundError

    text = " ".join(str(error).split())[:300] or type(error).__name__
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, GatedRepoError):
        text = f"gated: accept the terms at {address.page}, then `hf auth login` or set HF_TOKEN"
    elif status in (401, 403):
        text += "; if it is private or gated, `hf auth login` or set HF_TOKEN"
    full = isinstance(error, OSError) and error.errno in (13, 28, 30)
    foreign = isinstance(error, ValueError | FileMetadataError)  # an address that is none, a server that is no hub
    unreached = isinstance(error, LocalEntryNotFoundError)
    return text, not unreached and (full or foreign or status in FINAL)


def commit_of(address: HubAddress) -> str:
    """Return the commit that the address' revision names now. Raises DataError, one line."""
    asked = {"repo_type": address.repo_type, "revision": address.revision}
    return ask_hub(address, lambda hub: hub.repo_info(address.repo, **asked).sha)


def file_facts(address: HubAddress, commit: str) -> Remote:
    """Return size and digest the hub gives for the file `address.path`; raises DataError when there is none."""
    asked = {"revision": commit, "repo_type": address.repo_type}
    found = ask_hub(address, lambda hub: hub.get_paths_info(address.repo, [address.path], **asked))
    files = [_remote(item, address.path) for item in found if hasattr(item, "blob_id")]
    if not files:
        raise DataError(f"{address}: no such file in the repository; see {address.page}")
    return files[0]


def list_files(address: HubAddress, commit: str, patterns: Sequence[str]) -> list[Remote]:
    """Return the files below the folder `address.path` whose paths, relative to it, match a pattern, sorted."""
    asked = {"revision": commit, "repo_type": address.repo_type, "recursive": True}
    items = ask_hub(address, lambda hub: list(hub.list_repo_tree(address.repo, address.path or None, **asked)))
    prefix = f"{address.path}/" if address.path else ""
    files = [_remote(item, item.path.removeprefix(prefix)) for item in items if hasattr(item, "blob_id")]
    wanted = [one for one in files if any(fnmatchcase(one.path, pattern) for pattern in patterns)]
    return sorted(wanted, key=lambda one: one.path)


def _remote(item: Any, path: str) -> Remote:
    return Remote(path, item.size, item.lfs.sha256 if item.lfs else f"git:{item.blob_id}")


def download_file(address: HubAddress, commit: str, facts: Remote, path: Path, staging: Path) -> None:
    """Fetch the file `address.path` at `commit` to `path`, verified against `facts`; a rest waits in `staging`."""
    found = _download(address, revision=commit, local_dir=staging)
    _verify(address, found, facts.digest, facts.size)
    path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(found, path)


def cached_file(address: HubAddress) -> Path:
    """Return the file `address.path` in huggingface_hub's own cache, fetched unless HF_HUB_OFFLINE is set.

    Its bytes are compared with the digest the hub names it by. Raises DataError, one line, when it cannot be had.
    """
    if is_offline():
        from huggingface_hub import try_to_load_from_cache

        given = {"repo_type": address.repo_type, "revision": address.revision}
        cached = try_to_load_from_cache(address.repo, address.path, **given)
        if not isinstance(cached, str):
            raise _offline(address)
        return Path(cached)
    found = _download(address, revision=address.revision)
    stored = found.resolve()
    _verify(address, stored, stored.name if DIGEST.fullmatch(stored.name) else None, None)
    return found


def _download(address: HubAddress, **given: Any) -> Path:
    given["repo_type"] = address.repo_type
    return Path(ask_hub(address, lambda hub: hub.hf_hub_download(address.repo, address.path, **given)))


def _verify(address: HubAddress, path: Path, digest: str | None, size: int | None) -> None:
    wrong = mismatch(path, digest, size)
    if wrong:
        path.unlink()
        raise DataError(f"{address}: what arrived has {wrong}; it was deleted, try again later")


def require_token() -> None:
    """Raise ConfigError unless huggingface_hub finds a token: HF_TOKEN, or what `hf auth login` stored."""
    from huggingface_hub import get_token

    if not get_token():
        raise ConfigError(
            "publishing needs a token: run `hf auth login`, or set HF_TOKEN; it is never a configuration key"
        )
    if is_offline():
        raise ConfigError(
            "publishing needs the network: unset HF_HUB_OFFLINE, or leave repo out to write the folder alone"
        )


def upload(folder: Path, repo: str, private: bool, message: str) -> str:
    """Send the files of `folder` to the model repository `repo`, made where there is none; return the commit.

    Raises ConfigError without a token, DataError, one line, when the hub refuses or holds other bytes afterwards.
    """
    require_token()
    address, failed = HubAddress(repo), "not published"
    ask_hub(address, lambda hub: hub.create_repo(repo, private=private or None, exist_ok=True), failed)
    given = {"repo_id": repo, "folder_path": folder, "commit_message": message}
    commit = ask_hub(address, lambda hub: hub.upload_folder(**given).oid, failed)
    there = {remote.path: remote for remote in list_files(address, commit, ["*"])}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if name not in there:
            raise DataError(f"{address}: {name} did not arrive (commit {commit}); publish again")
        wrong = mismatch(path, there[name].digest, there[name].size)
        if wrong:
            raise DataError(f"{address}: {name} differs there from {path} ({wrong}; commit {commit}); publish again")
    log.info("published %s at commit %s", address.page, commit)
    return commit
