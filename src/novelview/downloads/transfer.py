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
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from novelview.downloads.verify import mismatch
from novelview.errors import DataError

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

    digest: SHA-256 or its first digits; size: bytes; check: returns what is wrong with a file, or None. All are applied
    before the file gets its name, as is the length the server announces. Between attempts it waits 1, 2, 4 ... seconds,
    or what the server asks for. Raises DataError, one line, when the server refuses (`Missing` for 404 and 410), the
    disk is too full, another process fetches the same file, the attempts are used up, or the content is wrong.
    """
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(part) as stream:
        if digest is None and not _tag(part).exists():
            stream.truncate(0)  # nothing would tell whether the rest belongs to the same version
        _attempts(url, stream, part, size, attempts, progress)
        wrong = mismatch(part, digest, size) or (check(part) if check else None)
        if wrong:
            _discard(part)
            raise DataError(f"{url}: what arrived has {wrong}; it was deleted, try again later or mend the registry")
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


def _attempts(url: str, stream: IO[bytes], part: Path, size: int | None, attempts: int, progress: bool) -> None:
    for attempt in range(1, attempts + 1):
        try:
            return _attempt(url, stream, part, size, progress)
        except _TryAgain as reason:
            if attempt == attempts:
                raise DataError(f"{url}: {reason} after {attempts} attempts; run again to continue") from None
            wait = min(max(2.0 ** (attempt - 1), reason.wait), LONGEST_WAIT)
            log.warning("%s: %s; attempt %d of %d in %.0f s", url, reason, attempt + 1, attempts, wait)
            time.sleep(wait)


def _attempt(url: str, stream: IO[bytes], part: Path, size: int | None, progress: bool) -> None:
    """Continue the file behind `stream` to its end."""
    have = os.fstat(stream.fileno()).st_size
    try:
        # An opener of its own: the shared one keeps the proxies it met first.
        with urllib.request.build_opener().open(_request(url, have, part), timeout=TIMEOUT) as response:
            have = _continue_at(response, stream, have)
            _remember(response, part)
            total = _announced(response, have, size, url, part)
            check_disk(part.parent, total - have if total else 0)
            _receive(response, stream, have, total, progress)
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


def _announced(response: Any, have: int, size: int | None, url: str, part: Path) -> int | None:
    """Return the length of the whole file as the server has it; one of another length than `size` is not fetched."""
    length = response.headers["Content-Length"] or ""
    if not length.isdigit():
        return size
    total = have + int(length)
    if size is not None and total != size:
        _discard(part)
        raise DataError(f"{url}: the server has {total} bytes instead of {size}; try again later or mend the registry")
    return total


def _receive(response: Any, stream: IO[bytes], have: int, total: int | None, progress: bool) -> None:
    # disable=None: no bar where the output is a file
    with tqdm(total=total, initial=have, unit="B", unit_scale=True, disable=None if progress else True) as bar:
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
        line = f"{url}: the server says {error.code} {error.reason}; check the address and your access to it"
        raise Missing(line) if error.code in (404, 410) else DataError(line)
    raise _TryAgain(f"the server says {error.code} {error.reason}", _seconds(error.headers["Retry-After"]))


def _seconds(text: str | None) -> float:
    """Return the seconds a Retry-After header asks for, given as a number or as a date."""
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
        raise DataError(
            f"{folder}: {needed / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB free; make room or choose another folder"
        )


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _tag(part).unlink(missing_ok=True)
