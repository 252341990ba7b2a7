"""Data folders against their manifests, before anything runs: Snakemake sees the manifests alone."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from novelview.files import sha256

HASHED = 2**28  # bytes a folder that are read anew by every call, smallest files first; sizes are compared for all


def changes(dataset: Path | str) -> list[str]:
    """Return a line for each folder of a data set (`data/rooms`) with a file that is not as its manifest has it."""
    folders = (Path(dataset) / name for name in ("raw", "packed"))
    found = ((folder, next(_differing(folder), None)) for folder in folders)
    return [
        f"{name}, and Snakemake sees {folder / 'manifest.json'} alone; bring it back (`dvc checkout {folder}`), "
        "or delete that manifest to have all of it made again"
        for folder, name in found
        if name
    ]


def _differing(folder: Path) -> Iterator[str]:
    """Yield what is wrong, file by file."""
    left = HASHED
    for path, entry in sorted(_listed(folder).items(), key=lambda item: item[1]["bytes"]):
        size, found = entry["bytes"], path.stat().st_size if path.is_file() else None
        if found is None:
            yield f"{path} is missing"
        elif found != size:
            yield f"{path} has {found} bytes instead of {size}"
        elif (left := left - size) >= 0 and sha256(path) != entry["sha256"]:
            yield f"{path} was changed"


def _listed(folder: Path) -> dict[Path, dict[str, Any]]:
    """Return the manifest's entries by path; none where there is no manifest, or one that its reader will refuse.

    Chunks that stayed in a folder of the user's (`root`) are left out where that folder is not on this machine.
    """
    try:
        content = json.loads((folder / "manifest.json").read_text("utf-8"))
        root = Path(content.get("root") or folder)
        files = {
            (root if name.endswith(".torch") else folder) / name: entry for name, entry in content["files"].items()
        }
        here = {path: entry for path, entry in files.items() if root.is_dir() or root not in path.parents}
        return {path: {"bytes": int(entry["bytes"]), "sha256": entry["sha256"]} for path, entry in here.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
