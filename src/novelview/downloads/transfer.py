"""Files over HTTP and of Hugging Face repositories: resumed, retried a bounded number of times, verified, whole or not.

The hub is asked through huggingface_hub, which honours the HF_* variables and proxies."""

import contextlib
import fcntl
import hashlib
import http.client
import json
import logging
import os
import re
import shutil
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any, TypeVar

from tqdm import tqdm

from novelview.downloads.registry import HubAddress
from novelview.errors import ConfigError, DataError
from novelview.files import sha256

log = logging.getLogger(__name__)

ATTEMPTS, HUB_ATTEMPTS = 8, 5
TIMEOUT = 60.0  # seconds without a byte
LONGEST_WAIT = 60.0
PIECE = 1 << 20
SPARE = 64 << 20  # bytes that stay free on the disk
PASSING = (408, 425, 429, 500, 502, 503, 504)  # statuses that may be gone a moment later
LOST = (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError)
MEND = "try again later or mend the registry"
TOLERANCE = 0.3  # share by which a rough size in the registry may be off
ZIP, PICKLE = b"PK\x03\x04", b"\x80"
OPENINGS = {".mat": (b"MATLAB",), ".zip": (ZIP,), **dict.fromkeys((".pt", ".pth", ".ckpt", ".torch"), (ZIP, PICKLE))}
FINAL = (400, 401, 403, 404, 410, 416)  # statuses of the hub that will be the same a moment later
Answer = TypeVar("Answer")


class TryAgain(Exception):
    """An attempt failed for a reason, the first argument, that may pass; a second: seconds the server asked for."""


class Missing(DataError):
    """The server says that there is no such file."""


def download(
    url: str,
    path: Path,
    digest: str | None = None,
    size: int | None = None,
    check: Callable[[Path], str | None] | None = None,
    attempts: int = ATTEMPTS,
    progress: bool = True,
) -> None:
    """Fetch `url` to `path`; what has arrived so far waits in `path`.part and is continued by the next call.

    digest: SHA-256 or its first digits; size: bytes; check: says what is wrong with a file, or None. All are applied,
    as is the length the server announces, before the file gets its name. Raises DataError, one line: the server refuses
    (`Missing` for 404 and 410), disk full, fetched by another process, attempts used up, wrong content."""
    part, tag = path.with_name(path.name + ".part"), path.with_name(path.name + ".part.tag")
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(part) as stream:
        if digest is None and not tag.exists():
            stream.truncate(0)  # nothing would tell whether the rest belongs to the same version
        retry(url, attempts, lambda: _attempt(url, stream, part, tag, size, progress))
        tag.unlink(missing_ok=True)
        reject(url, part, mismatch(part, digest, size) or (check(part) if check else None), MEND)
        os.fsync(stream.fileno())
        os.replace(part, path)


def reject(source: object, path: Path, wrong: str | None, advice: str = "try again later") -> None:
    """Delete what arrived and raise DataError where something is wrong with it, in words."""
    if wrong:
        path.unlink()
        raise DataError(f"{source}: what arrived has {wrong}; it was deleted, {advice}")


@contextlib.contextmanager
def locked(path: Path, what: Path | None = None) -> Iterator[IO[bytes]]:
    """Hold the file `path`, open for appending; raises DataError about `what` (itself) while another process does."""
    with open(path, "ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{what or path}: another process is fetching this; wait for it") from None
        yield stream


def retry(name: object, attempts: int, call: Callable[[], Answer]) -> Answer:
    """Return what `call` returns, called again when it raises TryAgain after 1, 2, 4 ... seconds, or as it asks; raises
    DataError, one line that begins with `name`, when the attempts are used up."""
    for attempt in range(1, attempts + 1):
        try:
            return call()
        except TryAgain as failed:
            reason, asked = (*failed.args, 0.0)[:2]
            if attempt == attempts:
                raise DataError(f"{name}: {reason} after {attempts} attempts; run again to continue") from None
            wait = min(max(2.0 ** (attempt - 1), asked), LONGEST_WAIT)
            log.warning("%s: %s; attempt %d of %d in %.0f s", name, reason, attempt + 1, attempts, wait)
            time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


def _attempt(url: str, stream: IO[bytes], part: Path, tag: Path, size: int | None, progress: bool) -> None:
    have = os.fstat(stream.fileno()).st_size
    headers = {"User-Agent": "novelview", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if tag.is_file():
            headers["If-Range"] = tag.read_text()
    try:
        # An opener of its own: the shared one keeps the proxies it met first.
        opener = urllib.request.build_opener()
        with opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as response:
            found = response.headers
            if response.status != 206 or not (found["Content-Range"] or "").startswith(f"bytes {have}-"):
                have = 0
                stream.truncate(0)
                if response.status == 206:
                    raise TryAgain("the server sent another part of the file than asked for")
            version = found["ETag"] or found["Last-Modified"]
            if version and not version.startswith("W/"):
                tag.write_text(version)  # so that a later call does not continue another version
            else:
                tag.unlink(missing_ok=True)
            length = found["Content-Length"] or ""
            total = have + int(length) if length.isdigit() else size
            if size is not None and total != size:
                part.unlink()
                tag.unlink(missing_ok=True)
                raise DataError(f"{url}: the server has {total} bytes instead of {size}; {MEND}")
            check_disk(part.parent, total - have if total else 0)
            # disable=None: no bar where the output is a file
            hidden = None if progress else True
            with tqdm(total=total, initial=have, unit="B", unit_scale=True, disable=hidden) as bar:
                while piece := response.read(PIECE):
                    stream.write(piece)
                    have += len(piece)
                    bar.update(len(piece))
            stream.flush()
            if total is not None and have < total:
                raise TryAgain(f"connection lost at {have} of {total} bytes")
    except urllib.error.HTTPError as error:
        _refused(url, error, stream, part, have)
    except LOST as error:
        raise TryAgain(f"connection lost ({getattr(error, 'reason', None) or error or type(error).__name__})") from None


def _refused(url: str, error: urllib.error.HTTPError, stream: IO[bytes], part: Path, have: int) -> None:
    if error.code == 416:  # nothing follows what is there: it is whole, or not this file at all
        if error.headers["Content-Range"] == f"bytes */{have}":
            return
        stream.truncate(0)
        raise TryAgain("the partial file was of another version")
    if error.code not in PASSING:
        if not have:
            part.unlink(missing_ok=True)
        line = f"{url}: the server says {error.code} {error.reason}; check the address and your access to it"
        raise Missing(line) if error.code in (404, 410) else DataError(line)
    raise TryAgain(f"the server says {error.code} {error.reason}", _seconds(error.headers["Retry-After"]))


def _seconds(text: str | None) -> float:
    if text and text.strip().isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text or "").timestamp() - time.time())
    except ValueError:
        return 0.0


def check_disk(folder: Path, needed: int) -> None:
    """Raise DataError when `needed` bytes do not fit on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if needed + SPARE > free:
        short = f"{needed / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB free"
        raise DataError(f"{folder}: {short}; make room or choose another folder")


def mismatch(path: Path, digest: str | None, size: int | None) -> str | None:
    """Return in words how a file differs from its size in bytes and its digest, or None; digest: SHA-256 or its first
    digits, or `git:` and the 40 of a git blob's SHA-1, which the hub gives for files outside its large-file storage."""
    found = path.stat().st_size
    if size is not None and found != size:
        return f"{found} bytes instead of {size}"
    if digest is None:
        return None
    if digest.startswith("git:"):
        blob = hashlib.sha1(f"blob {found}\0".encode(), usedforsecurity=False)
        with open(path, "rb") as stream:
            own = hashlib.file_digest(stream, lambda: blob).hexdigest()
        return None if own == digest[4:] else f"git digest {own[:12]} instead of {digest[4:]}"
    own = sha256(path)
    return None if own.startswith(digest.lower()) else f"SHA-256 {own[: max(12, len(digest))]} instead of {digest}"


def implausible(path: Path, name: str, about: int | None = None) -> str | None:
    """Return in words why a file without a published checksum cannot be what its name says, or None; about: rough size
    in bytes. A sign-in page, an archive cut short with its announced length, and another kind than the suffix of the
    final `name` tells are found so; a changed byte is not."""
    found = path.stat().st_size
    if about and abs(found - about) > TOLERANCE * about:
        return f"{found} bytes instead of about {about}"
    with open(path, "rb") as stream:
        opening = stream.read(16)
    suffix = Path(name).suffix
    if not opening.startswith(OPENINGS.get(suffix, (b"",))):
        return f"another content than a {suffix} file (it begins with {opening!r})"
    if opening.startswith(ZIP) and not zipfile.is_zipfile(path):
        return "no end: its archive is cut short"
    if suffix == ".json":
        try:
            json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            return "no JSON in it"
    return None


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


def ask_hub(address: HubAddress, call: Callable[[Any], Answer], failed: str = "not fetched") -> Answer:
    """Return what `call` returns for the hub's client; again after a while when it failed for a reason that may pass.

    The client's token is HF_TOKEN or what `hf auth login` stored. Raises DataError, one line, if it did not succeed."""
    from huggingface_hub import HfApi  # half a second to import, and most fetches do without

    if is_offline():
        raise DataError(f"{address}: not fetched: HF_HUB_OFFLINE is set; unset it where there is a network")
    client = HfApi(os.environ.get("HF_ENDPOINT") or None, library_name="novelview")

    def attempt() -> Answer:
        try:
            return call(client)
        except Exception as error:  # its own, the HTTP library's, the operating system's: all mean that it failed
            reason, final = _judge(address, error)
            raise (DataError(f"{address}: {failed}: {reason}") if final else TryAgain(f"{failed}: {reason}")) from None

    return retry(address, HUB_ATTEMPTS, attempt)


def _judge(address: HubAddress, error: Exception) -> tuple[str, bool]:
    from huggingface_hub.errors import FileMetadataError, GatedRepoError, LocalEntryNotFoundError

    text = " ".join(str(error).split())[:300] or type(error).__name__
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, GatedRepoError):
        text = f"gated: accept the terms at {address.page}, then `hf auth login` or set HF_TOKEN"
    elif status in (401, 403):
        text += "; if it is private or gated, `hf auth login` or set HF_TOKEN"
    full = isinstance(error, OSError) and error.errno in (13, 28, 30)
    foreign = isinstance(error, ValueError | FileMetadataError)  # an address that is none, a server that is no hub
    return text, not isinstance(error, LocalEntryNotFoundError) and (full or foreign or status in FINAL)


def commit_of(address: HubAddress) -> str:
    """Return the commit that the address' revision names now. Raises DataError, one line."""
    asked = {"repo_type": address.repo_type, "revision": address.revision}
    return ask_hub(address, lambda hub: hub.repo_info(address.repo, **asked).sha)


def file_facts(address: HubAddress, commit: str) -> Remote:
    """Return size and digest the hub gives for the file `address.path`; raises DataError when there is none."""
    asked = {"revision": commit, "repo_type": address.repo_type}
    for item in ask_hub(address, lambda hub: hub.get_paths_info(address.repo, [address.path], **asked)):
        if hasattr(item, "blob_id"):
            return _remote(item)
    raise DataError(f"{address}: no such file in the repository; see {address.page}")


def list_files(address: HubAddress, commit: str, patterns: Sequence[str]) -> list[Remote]:
    """Return the files below the folder `address.path` whose paths, relative to it, match a pattern, sorted."""
    asked = {"revision": commit, "repo_type": address.repo_type, "recursive": True}
    items = ask_hub(address, lambda hub: list(hub.list_repo_tree(address.repo, address.path or None, **asked)))
    files = [_remote(one, f"{address.path}/" if address.path else "") for one in items if hasattr(one, "blob_id")]
    wanted = [one for one in files if any(fnmatchcase(one.path, pattern) for pattern in patterns)]
    return sorted(wanted, key=lambda one: one.path)


def _remote(item: Any, prefix: str = "") -> Remote:
    return Remote(item.path.removeprefix(prefix), item.size, item.lfs.sha256 if item.lfs else f"git:{item.blob_id}")


def download_file(address: HubAddress, commit: str, facts: Remote, path: Path, staging: Path) -> None:
    """Fetch the file `address.path` at `commit` to `path`, verified against `facts`; a rest waits in `staging`."""
    found = _download(address, revision=commit, local_dir=staging)
    reject(address, found, mismatch(found, facts.digest, facts.size))
    path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(found, path)


def cached_file(address: HubAddress) -> Path:
    """Return the file `address.path` in huggingface_hub's own cache, fetched unless HF_HUB_OFFLINE is set.

    Its bytes are compared with the digest the hub names it by. Raises DataError, one line, when it cannot be had."""
    if is_offline():
        from huggingface_hub import try_to_load_from_cache

        given = {"repo_type": address.repo_type, "revision": address.revision}
        cached = try_to_load_from_cache(address.repo, address.path, **given)
        if isinstance(cached, str):
            return Path(cached)
    found = _download(address, revision=address.revision)
    stored = found.resolve()
    if re.fullmatch(r"[0-9a-f]{64}", stored.name):
        reject(address, stored, mismatch(stored, stored.name, None))
    return found


def _download(address: HubAddress, **given: Any) -> Path:
    given["repo_type"] = address.repo_type
    return Path(ask_hub(address, lambda hub: hub.hf_hub_download(address.repo, address.path, **given)))


def require_token() -> None:
    """Raise ConfigError unless huggingface_hub finds a token: HF_TOKEN, or what `hf auth login` stored."""
    from huggingface_hub import get_token

    if not get_token():
        advice = "run `hf auth login`, or set HF_TOKEN; it is never a configuration key"
        raise ConfigError(f"publishing needs a token: {advice}")
    if is_offline():
        advice = "unset HF_HUB_OFFLINE, or leave repo out to write the folder alone"
        raise ConfigError(f"publishing needs the network: {advice}")


def upload(folder: Path, repo: str, private: bool, message: str) -> str:
    """Send the files of `folder` to the model repository `repo`, made where there is none; return the commit.

    Raises DataError, one line, when the hub refuses or holds other bytes afterwards; see `require_token`."""
    address, failed = HubAddress(repo), "not published"
    ask_hub(address, lambda hub: hub.create_repo(repo, private=private or None, exist_ok=True), failed)
    given = {"repo_id": repo, "folder_path": folder, "commit_message": message}
    commit = ask_hub(address, lambda hub: hub.upload_folder(**given).oid, failed)
    there = {remote.path: remote for remote in list_files(address, commit, ["*"])}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if name not in there:
            raise DataError(f"{address}: {name} did not arrive (commit {commit}); publish again")
        if wrong := mismatch(path, there[name].digest, there[name].size):
            raise DataError(f"{address}: {name} differs there from {path} ({wrong}; commit {commit}); publish again")
    log.info("published %s at commit %s", address.page, commit)
    return commit
