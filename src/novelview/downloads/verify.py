"""Whether a file is what it should be: by size, by checksum, and without one at least by its kind."""

import hashlib
import json
import zipfile
from pathlib import Path

from novelview.files import sha256

TOLERANCE = 0.3  # share by which a rough size in the registry may be off
ZIP, PICKLE = b"PK\x03\x04", b"\x80"
OPENINGS = {".mat": (b"MATLAB",), ".zip": (ZIP,), **dict.fromkeys((".pt", ".pth", ".ckpt", ".torch"), (ZIP, PICKLE))}


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
        own = _git_blob(path)
        return None if own == digest[4:] else f"git digest {own[:12]} instead of {digest[4:]}"
    own = sha256(path)
    return None if own.startswith(digest.lower()) else f"SHA-256 {own[: max(12, len(digest))]} instead of {digest}"


def _git_blob(path: Path) -> str:
    total = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with open(path, "rb") as stream:
        while piece := stream.read(1 << 20):
            total.update(piece)
    return total.hexdigest()


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
    if suffix == ".json" and not _is_json(path):
        return "no JSON in it"
    return None


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return True
