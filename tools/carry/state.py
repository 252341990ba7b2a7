"""The state folder: what finished calls made, in a few numbered pieces that go through any narrow door.

`state.json` is the index: which pieces there are, with sizes and checksums, and what the state is of. The pieces, cut
from one compressed archive, have names of their content, so a new state is written beside the old one; the index is
replaced last, and only then are old pieces removed. A kill at any moment leaves the one state or the other whole."""

import gzip
import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from novelview.errors import DataError
from novelview.files import write_bytes, write_json

FORMAT = "novelview mini state 1"
INDEX = "state.json"
PIECE_BYTES = 15_000_000
PIECE = re.compile(r"part-[0-9a-f]{12}-[0-9]{2,}\.bin")
FOLDERS = ("results", "released", "checkpoints", ".snakemake/metadata")
ADVICE = "bring the folder back whole, as the last call left it, or name an empty folder to begin anew"


def read_index(folder: Path) -> dict[str, Any] | None:
    """Return the index of a state folder, None for one that is missing or empty; raises DataError for anything else."""
    path = folder / INDEX
    if not path.is_file():
        there = (
            sorted(item.name for item in folder.iterdir() if not item.name.startswith(".")) if folder.exists() else []
        )
        if there:
            raise DataError(f"{folder}: holds {there[0]} and no {INDEX}; {ADVICE}")
        return None
    try:
        index = json.loads(path.read_bytes())
        known = index["format"] == FORMAT and isinstance(index["about"], dict)
        pieces = [(str(one["name"]), int(one["bytes"]), str(one["sha256"])) for one in index["pieces"]]
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{path}: is no index of a state; {ADVICE}") from None
    if not known or not all(PIECE.fullmatch(name) for name, _, _ in pieces):
        raise DataError(f"{path}: is no index of a state that this version reads; {ADVICE}")
    return index


def unpack(folder: Path, root: Path) -> None:
    """Put the files of a state under `root`, each whole or not at all; raises DataError for a damaged state, first."""
    index = read_index(folder)
    if index is None:
        return
    content = b"".join(_piece(folder, one) for one in index["pieces"])
    try:
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(content))) as archive:
            members = archive.getmembers()
            _check(folder, members)
            for member in members:
                stream = archive.extractfile(member)
                assert stream is not None
                _put(root / member.name, stream.read(), member.mtime)
    except (tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.filename:
            raise
        raise DataError(f"{folder}: its archive cannot be read ({error}); {ADVICE}") from None


def _piece(folder: Path, entry: dict[str, Any]) -> bytes:
    path = folder / entry["name"]
    try:
        content = path.read_bytes()
    except OSError:
        raise DataError(f"{path}: this piece of the state is missing; {ADVICE}") from None
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise DataError(f"{path}: this piece of the state is damaged; {ADVICE}")
    return content


def _check(folder: Path, members: Iterable[tarfile.TarInfo]) -> None:
    for member in members:
        path = PurePosixPath(member.name)
        inside = any(path.is_relative_to(place) for place in FOLDERS) and ".." not in path.parts
        if not (member.isfile() and inside):
            raise DataError(f"{folder}: its archive holds {member.name}, which no state does; {ADVICE}")


def _put(path: Path, content: bytes, mtime: float) -> None:
    write_bytes(path, content)
    os.utime(path, (mtime, mtime))


def pack(folder: Path, root: Path, files: Iterable[Path], about: dict[str, Any]) -> dict[str, Any]:
    """Write the state of `files` (below `root`) to `folder`; return its index. Equal files give equal pieces."""
    folder.mkdir(parents=True, exist_ok=True)
    content = _archive(root, sorted(set(files)))
    name = hashlib.sha256(content).hexdigest()[:12]
    pieces = []
    for number, start in enumerate(range(0, len(content), PIECE_BYTES)):
        part = content[start : start + PIECE_BYTES]
        entry = {"name": f"part-{name}-{number:02d}.bin", "bytes": len(part)}
        pieces.append({**entry, "sha256": hashlib.sha256(part).hexdigest()})
        if not _there(folder / entry["name"], part):
            write_bytes(folder / entry["name"], part)
    index = {"format": FORMAT, "pieces": pieces, "about": about}
    write_json(folder / INDEX, index)
    _sweep(folder, {entry["name"] for entry in pieces})
    return index


def _there(path: Path, content: bytes) -> bool:
    with suppress(OSError):
        return path.read_bytes() == content
    return False


def _archive(root: Path, files: Iterable[Path]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in files:
            member = tarfile.TarInfo(path.relative_to(root).as_posix())
            content = path.read_bytes()
            member.size, member.mtime = len(content), path.stat().st_mtime
            archive.addfile(member, io.BytesIO(content))
    return gzip.compress(stream.getvalue(), compresslevel=6, mtime=0)


def _sweep(folder: Path, known: set[str]) -> None:
    """Remove the pieces of earlier states, and what a killed call left half-written."""
    for path in folder.iterdir():
        old = PIECE.fullmatch(path.name) and path.name not in known
        if old or (path.name.startswith((".part-", f".{Path(INDEX).stem}.")) and ".partial" in path.name):
            path.unlink(missing_ok=True)


def total_bytes(index: dict[str, Any]) -> int:
    """Return the bytes of all pieces."""
    return sum(entry["bytes"] for entry in index["pieces"])
