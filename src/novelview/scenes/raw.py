"""A data set as stage `download` or `poses` left it: which chunks it has, where they lie, what they must weigh."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from novelview.errors import DataError
from novelview.files import read_json

MANIFEST = "manifest.json"
CHUNK = re.compile(r"(train|test)/[^/]+\.torch")


@dataclass(frozen=True)
class RawData:
    """The folder with manifest.json and the folder of the chunks, which may have stayed where they were found.

    chunks: split -> chunk files in order; checksums: `{split}/{name}` -> SHA-256; unposed: scene -> frames that were
    left without a camera, whose pictures are empty.
    """

    folder: Path
    root: Path
    chunks: dict[str, list[Path]]
    checksums: dict[str, str]
    unposed: dict[str, list[int]]
    manifest: dict[str, Any]

    @property
    def depth_range(self) -> list[float] | None:
        """Return the z depths, 1st and 99th percentile, of what photographs see, where the import knows points."""
        found = self.manifest.get("import")
        return found.get("depth_range") if isinstance(found, dict) else None


def read_raw(folder: Path) -> RawData:
    """Read a data set's manifest; raises DataError, one line, when it is missing, damaged, or lists no chunks."""
    path = folder / MANIFEST
    manifest = read_json(path)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise DataError(f"{path}: lists no files; run the download stage again")
    root = Path(str(manifest.get("root") or folder))
    checksums = _checksums(path, manifest["files"])
    if not checksums:
        raise DataError(f"{path}: lists no chunks; run the download stage again")
    splits = sorted({name.partition("/")[0] for name in checksums})
    chunks = {split: [root / name for name in sorted(checksums) if name.startswith(f"{split}/")] for split in splits}
    return RawData(folder, root, chunks, checksums, _unposed(path, manifest.get("unposed", {})), manifest)


def _checksums(path: Path, files: dict[str, Any]) -> dict[str, str]:
    """Return the SHA-256 of every listed chunk by {split}/{name}."""
    chunks = {name: entry for name, entry in files.items() if name.endswith(".torch")}
    for name, entry in chunks.items():
        checksum = entry.get("sha256") if isinstance(entry, dict) else None
        if not isinstance(checksum, str) or not CHUNK.fullmatch(name):
            raise DataError(f"{path}: its entry '{name}' is not one of ours; run the download stage again")
    return {name: entry["sha256"] for name, entry in chunks.items()}


def _unposed(path: Path, found: Any) -> dict[str, list[int]]:
    whole = isinstance(found, dict) and all(
        isinstance(frames, list) and all(type(frame) is int for frame in frames) for frames in found.values()
    )
    if not whole:
        raise DataError(f"{path}: 'unposed' lists no frames by scene; run the poses stage again")
    return found
