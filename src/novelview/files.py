"""Files that appear whole or not at all, their checksums, and the manifests that list them."""

import fcntl
import hashlib
import json
import logging
import os
import pickletools
import re
import secrets
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from novelview.errors import ConfigError, DataError

log = logging.getLogger(__name__)

SOURCE_STATE = ".source"  # in a folder of data: `source_state` of what they were imported from
PICKLED = 2**24  # bytes of a pickle that are looked through
READ_BELOW = 2**22  # bytes of a file whose content, not time, says whether it changed
MANIFEST = "manifest.json"  # of a folder of data: written last, with size and SHA-256 of every file


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`, of the same suffix (libraries look at it); on success fsync it and move it
    over `path`, else remove it. An OSError about it, or about none (a full disk), comes out under the name `path`."""
    final = Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = final.with_name(f".{final.stem}.{secrets.token_hex(8)}.partial{final.suffix}")
    try:
        yield partial
        with open(partial, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(partial, final)
    except OSError as error:
        raise _located(error, final, str(partial)) from None
    finally:
        with suppress(OSError):
            partial.unlink()


@contextmanager
def locating(place: Path | str) -> Iterator[None]:
    """Give every OSError of the body that names no file (a full disk) the name `place`; it may be the context of a
    RuntimeError: torch.save answers a failed write with one about its place in the archive."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise _located(cause, place) from None


def _located(error: OSError, place: Path | str, other: str | None = None) -> OSError:
    nameless = error.filename in (None, other)
    return OSError(error.errno, error.strerror or str(error), str(place)) if nameless else error


@contextmanager
def holding_lock(place: Path | str, wait: bool = True) -> Iterator[None]:
    """Hold the lock of what is made at `place`, until the process dies at most; another call waits, with a warning.

    It is a hidden file beside `place`. Without `wait` ConfigError is raised where another process has the lock."""
    place = Path(place).absolute()
    place.parent.mkdir(parents=True, exist_ok=True)
    path = place.with_name(f".{place.name}.lock")
    while True:
        with open(path, "a") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    raise ConfigError(f"{place}: another process is at work here; wait for its end") from None
                log.warning("%s: another process is at work here; waiting for it to end, then going on", place)
                fcntl.flock(stream, fcntl.LOCK_EX)
            except OSError as error:
                log.warning("%s: this file system has no locks (%s); start one run at a time", place, error.strerror)
            try:
                # The one before may have removed the file that was opened here; then the lock is another file's.
                if _same(path, stream.fileno()):
                    yield
                    return
            finally:
                with suppress(OSError):
                    if _same(path, stream.fileno()):
                        path.unlink()


def _same(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def require_writable(path: Path | str, key: str) -> None:
    """Raise ConfigError, before a long run, when the file `path` of configuration key `key` cannot be written because
    it is a folder, or by the nearest existing folder above it; nothing is made."""
    final = Path(path).absolute()
    if final.is_dir():
        raise ConfigError(f"{key}={path}: is a folder; give the name of a file")
    above = next(folder for folder in final.parents if folder.exists())
    if not above.is_dir():
        raise ConfigError(f"{key}={path}: {above} is a file, not a folder; choose another place")
    if not os.access(above, os.W_OK):
        raise ConfigError(f"{key}={path}: {above} cannot be written; choose a writable folder")


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write `content` to `path` atomically."""
    with replacing(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path | str, text: str) -> None:
    """Write `text` as UTF-8 to `path` atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON with a final newline to `path` atomically."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path | str, advice: str = "delete it and make it again") -> Any:
    """Read a JSON file, with or without byte order mark; raises DataError naming it when it is missing or not JSON;
    advice: what to do about one that is not JSON; for the user's own files, never to delete them."""
    try:
        return json.loads(Path(path).read_text("utf-8-sig"), parse_int=_whole_number)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; run the stage that makes it first") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error}); {advice}") from None


def _whole_number(digits: str) -> int:
    if len(digits) > 20:  # nothing here has so many, and arithmetic fails on them in a dozen places
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def file_entry(path: Path) -> dict[str, Any]:
    """Return what a manifest says of a file: its size and checksum."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def file_entries(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the entry of every file below a folder, but hidden ones, by its path from there: a manifest's `files`."""
    files = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {str(place): file_entry(path) for place, path in files.items() if not re.search(r"(^|/)\.", str(place))}


def check_size(path: Path, entry: Mapping[str, Any], advice: str) -> None:
    """Raise DataError, which ends with `advice`, unless a file is there with the size that its manifest says."""
    found = path.stat().st_size if path.is_file() else None
    if found != entry["bytes"]:
        state = "missing" if found is None else f"{found} bytes instead of {entry['bytes']}"
        raise DataError(f"{path}: {state}; {advice}")


def check_content(path: Path, entry: Mapping[str, Any], advice: str) -> None:
    """Raise DataError, which ends with `advice`, unless a file has the checksum that its manifest says."""
    if sha256(path) != entry["sha256"]:
        raise DataError(f"{path}: content differs from the manifest; {advice}")


def source_state(path: Path | str, pattern: str = "**/*") -> str:
    """Return a digest of what lies at `path`, as far as it may be told without reading it: names, sizes and times of
    modification, of small JSON and text files the content. A JSON file stands for its folder. Nothing there: empty."""
    place = expanded(path)
    root = place.parent if place.suffix == ".json" else place
    found = [place] if not root.is_dir() and place.exists() else sorted(root.glob(pattern))
    lines = []
    for item in (item for item in found if not any(part.startswith(".") for part in item.relative_to(root).parts)):
        about = item.stat() if item.exists() else None
        if about is None or (item.is_dir() and pattern == "**/*"):
            continue
        small = item.suffix in (".json", ".txt") and about.st_size <= READ_BELOW
        lines.append(f"{item.relative_to(root)} {about.st_size} {sha256(item) if small else about.st_mtime_ns}")
    text = "\n".join(lines).encode("utf-8", "surrogateescape")
    return hashlib.sha256(text).hexdigest()[:16] if found else ""


def require_listed(path: Path, folder: Path, advice: str) -> Path:
    """Return `path`; raises DataError where the manifest of `folder`, which it lies in, lists it with other content."""
    manifest = folder / MANIFEST
    listed = read_json(manifest, advice) if manifest.is_file() else {}
    files = listed.get("files") if isinstance(listed, dict) else None
    entry = files.get(str(path.relative_to(folder))) if isinstance(files, dict) else None
    if isinstance(entry, dict) and {"bytes", "sha256"} <= entry.keys():
        check_size(path, entry, advice)
        check_content(path, entry, advice)
    return path


def foreign_code(path: Path | str) -> str | None:
    """Return the first name that a pickle would import, other than PyTorch's own, read without running anything: what
    would then run is code. None where there is none, or the file is no pickle."""
    try:
        with open(path, "rb") as stream:
            content = stream.read(PICKLED)
        if content.startswith(b"PK"):
            with zipfile.ZipFile(path) as archive:
                name = next(name for name in archive.namelist() if name.endswith("data.pkl"))
                content = archive.open(name).read(PICKLED)
        words: list[str] = []
        for code, value, _ in pickletools.genops(content):
            words += [value] if isinstance(value, str) and code.name != "GLOBAL" else []
            name = str(value).replace(" ", ".") if code.name == "GLOBAL" else ".".join(words[-2:])
            if code.name in ("GLOBAL", "STACK_GLOBAL") and not name.startswith(("torch.", "collections.OrderedDict")):
                return name
    # A damaged pickle can fail in any way: then nothing can be said of it.
    except Exception:
        log.debug("%s: no pickle that can be looked through", path)
    return None


def unpacked_problem(path: Path | str) -> str | None:
    """Return why an archive may unpack to more than it weighs, as PyTorch's never do; None for other files."""
    with open(path, "rb") as stream:
        if stream.read(4) != b"PK\x03\x04":
            return None
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        return "holds compressed records"
    weight = Path(path).stat().st_size
    return "its records claim more bytes than the file has" if sum(one.file_size for one in entries) > weight else None


def expanded(path: Path | str) -> Path:
    """Return a path with ~ replaced; as it is where nobody knows that home, as for a user without an entry."""
    return Path(os.path.expanduser(path))


def sha256(path: Path | str) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
