"""One file over HTTP: resumed where it stopped, retried a bounded number of times, verified, whole or not at all."""

import contextlib
import fcntl
import hashlib
import http.client
import json
import logging
import os
import shutil
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, Any, TypeVar

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
TOLERANCE = 0.3  # share by which a rough size in the registry may be off
ZIP, PICKLE = b"PK\x03\x04", b"\x80"
OPENINGS = {".mat": (b"MATLAB",), ".zip": (ZIP,), **dict.fromkeys((".pt", ".pth", ".ckpt", ".torch"), (ZIP, PICKLE))}
Answer = TypeVar("Answer")


class TryAgain(Exception):
    """An attempt failed for a reason that may pass; `wait`: seconds the server asked for."""

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
    before the file gets its name, as is the length the server announces. Raises DataError, one line, when the server
    refuses (`Missing` for 404 and 410), the disk is too full, another process fetches the same file, the attempts are
    used up, or the content is wrong.
    """
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(part) as stream:
        if digest is None and not _tag(part).exists():
            stream.truncate(0)  # nothing would tell whether the rest belongs to the same version
        retry(url, attempts, lambda: _attempt(url, stream, part, size, progress))
        wrong = mismatch(part, digest, size) or (check(part) if check else None)
        if wrong:
            _discard(part)
            raise DataError(f"{url}: what arrived has {wrong}; it was deleted, try again later or mend the registry")
        os.fsync(stream.fileno())
        os.replace(part, path)
        _tag(part).unlink(missing_ok=True)


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
    """Return what `call` returns, called again when it raises TryAgain after 1, 2, 4 ... seconds, or as it asks.

    Raises DataError, one line that begins with `name`, when the attempts are used up.
    """
    for attempt in range(1, attempts + 1):
        try:
            return call()
        except TryAgain as reason:
            if attempt == attempts:
                raise DataError(f"{name}: {reason} after {attempts} attempts; run again to continue") from None
            wait = min(max(2.0 ** (attempt - 1), reason.wait), LONGEST_WAIT)
            log.warning("%s: %s; attempt %d of %d in %.0f s", name, reason, attempt + 1, attempts, wait)
            time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


def _attempt(url: str, stream: IO[bytes], part: Path, size: int | None, progress: bool) -> None:
    """Continue the file behind `stream` to its end."""
    have, tag = os.fstat(stream.fileno()).st_size, _tag(part)
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
                _discard(part)
                wrong = f"the server has {total} bytes instead of {size}; try again later or mend the registry"
                raise DataError(f"{url}: {wrong}")
            check_disk(part.parent, total - have if total else 0)
            _receive(response, stream, have, total, progress)
    except urllib.error.HTTPError as error:
        _refused(url, error, stream, part, have)
    except LOST as error:
        raise TryAgain(f"connection lost ({getattr(error, 'reason', None) or error or type(error).__name__})") from None


def _tag(part: Path) -> Path:
    return part.with_name(part.name + ".tag")


def _receive(response: Any, stream: IO[bytes], have: int, total: int | None, progress: bool) -> None:
    # disable=None: no bar where the output is a file
    with tqdm(total=total, initial=have, unit="B", unit_scale=True, disable=None if progress else True) as bar:
        while piece := response.read(PIECE):
            stream.write(piece)
            have += len(piece)
            bar.update(len(piece))
    stream.flush()
    if total is not None and have < total:
        raise TryAgain(f"connection lost at {have} of {total} bytes")


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


def mismatch(path: Path, digest: str | None, size: int | None) -> str | None:
    """Return in words how a file differs from its size in bytes and its digest, or None.

    digest: SHA-256 or its first digits; `git:` and 40 digits is the SHA-1 of a git blob, which the hub gives for files
    outside its large-file storage.
    """
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
    """Return in words why a file without a published checksum cannot be what its name says, or None.

    name: the final name, whose suffix tells the kind; about: rough size in bytes. A sign-in page, an archive cut short
    together with its announced length, and a file of another kind are found so; a changed byte is not.
    """
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
