"""One file over HTTP: resumed where it stopped, retried a bounded number of times, whole or not at all."""

import contextlib
import fcntl
import http.client
import logging
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from novelview.errors import DataError
from novelview.files import sha256

log = logging.getLogger(__name__)

ATTEMPTS = 8
TIMEOUT = 60.0  # seconds without a byte
LONGEST_WAIT = 60.0
PIECE = 1 << 20
SPARE = 64 << 20  # bytes that stay free on the disk
PASSING = (408, 425, 429, 500, 502, 503, 504)  # statuses that may be gone a moment later
LOST = (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError)


class _TryAgain(Exception):
    """The transfer stopped for a reason that may pass; `wait`: seconds the server asked for."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def download(url: str, path: Path, digest: str | None = None, size: int | None = None, first_wait: float = 1.0) -> None:
    """Fetch `url` to `path`; what has arrived so far waits in `path`.part and is continued by the next call.

    digest: SHA-256 or its first digits; size: bytes. Both are verified before the file gets its name, as is the length
    the server announces. first_wait: seconds before the second attempt, doubled for each further one. Raises DataError,
    one line, when the server refuses, the disk is too full, another process fetches the same file, the attempts are
    used up, or the content is not what it should be.
    """
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(part) as stream:
        if digest is None and not _tag(part).exists():
            stream.truncate(0)  # nothing would tell whether the rest belongs to the same version
        _attempts(url, stream, part, size, first_wait)
        _verify(part, url, digest, size)
        os.fsync(stream.fileno())
        os.replace(part, path)
        _tag(part).unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(part: Path) -> Iterator[IO[bytes]]:
    with open(part, "ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{part}: another process is fetching this file; wait for it") from None
        yield stream


def _attempts(url: str, stream: IO[bytes], part: Path, size: int | None, first_wait: float) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return _attempt(url, stream, part, size)
        except _TryAgain as reason:
            if attempt == ATTEMPTS:
                raise DataError(f"{url}: {reason} after {ATTEMPTS} attempts; run again to continue") from None
            wait = min(max(first_wait * 2 ** (attempt - 1), reason.wait), LONGEST_WAIT)
            log.warning("%s: %s; attempt %d of %d in %.0f s", url, reason, attempt + 1, ATTEMPTS, wait)
            time.sleep(wait)


def _attempt(url: str, stream: IO[bytes], part: Path, size: int | None) -> None:
    """Continue the file behind `stream` to its end."""
    have = os.fstat(stream.fileno()).st_size
    try:
        with urllib.request.urlopen(_request(url, have, part), timeout=TIMEOUT) as response:
            have = _continue_at(response, stream, have)
            _remember(response, part)
            total = have + int(response.headers["Content-Length"]) if response.headers["Content-Length"] else size
            check_disk(part.parent, total - have if total else 0)
            _receive(response, stream, have, total)
    except urllib.error.HTTPError as error:
        _refused(url, error, stream, part, have)
    except LOST as error:
        raise _TryAgain(
            f"connection lost ({getattr(error, 'reason', None) or error or type(error).__name__})"
        ) from None


def _request(url: str, have: int, part: Path) -> urllib.request.Request:
    headers = {"User-Agent": "novelview", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        with contextlib.suppress(FileNotFoundError):
            headers["If-Range"] = _tag(part).read_text()
    return urllib.request.Request(url, headers=headers)


def _tag(part: Path) -> Path:
    return part.with_name(part.name + ".tag")


def _remember(response: Any, part: Path) -> None:
    """Keep the version of the file, so that a later call does not continue another one."""
    version = response.headers["ETag"] or response.headers["Last-Modified"]
    if version and not version.startswith("W/"):
        _tag(part).write_text(version)
    else:
        _tag(part).unlink(missing_ok=True)


def _continue_at(response: Any, stream: IO[bytes], have: int) -> int:
    """Return how many bytes stay: what is there when the server continues it, else none."""
    if response.status == 206 and (response.headers["Content-Range"] or "").startswith(f"bytes {have}-"):
        return have
    stream.truncate(0)
    if response.status == 206:
        raise _TryAgain("the server sent another part of the file than asked for")
    return 0


def _receive(response: Any, stream: IO[bytes], have: int, total: int | None) -> None:
    # disable=None: no bar where the output is a file
    with tqdm(total=total, initial=have, unit="B", unit_scale=True, disable=None) as bar:
        while piece := response.read(PIECE):
            stream.write(piece)
            have += len(piece)
            bar.update(len(piece))
    stream.flush()
    if total is not None and have < total:
        raise _TryAgain(f"connection lost at {have} of {total} bytes")


def _refused(url: str, error: urllib.error.HTTPError, stream: IO[bytes], part: Path, have: int) -> None:
    if error.code == 416:  # nothing follows what is there: it is whole, or not this file at all
        if error.headers["Content-Range"] == f"bytes */{have}":
            return
        stream.truncate(0)
        raise _TryAgain("the partial file was of another version")
    if error.code not in PASSING:
        if not have:
            part.unlink(missing_ok=True)
        raise DataError(f"{url}: the server says {error.code} {error.reason}; check the address and your access to it")
    wait = error.headers["Retry-After"] or ""
    raise _TryAgain(f"the server says {error.code} {error.reason}", float(wait) if wait.isdigit() else 0.0)


def check_disk(folder: Path, needed: int) -> None:
    """Raise DataError when `needed` bytes do not fit on the disk of `folder`."""
    free = shutil.disk_usage(folder).free
    if needed + SPARE > free:
        raise DataError(
            f"{folder}: {needed / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB free; make room or choose another folder"
        )


def _verify(part: Path, url: str, digest: str | None, size: int | None) -> None:
    wrong = mismatch(part, digest, size)
    if wrong:
        part.unlink()
        _tag(part).unlink(missing_ok=True)
        raise DataError(f"{url}: what arrived has {wrong}; it was deleted, try again later or mend conf/registry.yaml")


def mismatch(path: Path, digest: str | None, size: int | None) -> str | None:
    """Return in words how a file differs from its size in bytes and its SHA-256 (or first digits), or None."""
    found = path.stat().st_size
    if size is not None and found != size:
        return f"{found} bytes instead of {size}"
    if digest is None:
        return None
    own = sha256(path)
    return None if own.startswith(digest.lower()) else f"SHA-256 {own[: max(12, len(digest))]} instead of {digest}"
