"""LaCT-style `opencv_cameras.json`: an array of {fx, fy, cx, cy, w2c, file_path} beside its pictures (specs/lact.md).

Intrinsics are in pixels of the stored picture; `w` and `h` are not read; `w2c` is world-to-camera with OpenCV axes.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from novelview.config.sources import OpencvCamerasSource
from novelview.errors import DataError
from novelview.files import read_json
from novelview.scenes.imports.lens import Lens
from novelview.scenes.imports.scene import ImportedFrame, ImportedScene, lens_numbers, named_frames, ordered, pose


def load(path: Path, source: OpencvCamerasSource) -> ImportedScene:
    """Read an opencv_cameras.json, given itself or its folder; raises DataError naming file, frame and key."""
    file = path / "opencv_cameras.json" if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"{file}: no such file; give path=FOLDER with an opencv_cameras.json, or the file itself")
    frames, missing = named_frames(
        file, read_json(file, "correct it"), _existing, lambda picture, name, entry: _frame(file, name, picture, entry)
    )
    frames, missing = ordered(file, frames, missing, source.allow_missing)
    return ImportedScene(file, frames, background=source.background, missing=missing)


def listed(path: Path, source: OpencvCamerasSource) -> dict[str, ImportedScene]:
    """Return the scenes of a list file: a JSON array of paths to opencv_cameras.json, relative to the list's folder.

    Empty when `path` is no list. Scenes are named after their folders. Raises DataError for a path that is none.
    """
    content = read_json(path, "correct it") if path.is_file() else None
    if not isinstance(content, list) or not content or not all(isinstance(name, str) for name in content):
        return {}
    found: dict[str, ImportedScene] = {}
    for name in content:
        file = path.parent / name
        if not file.is_file():
            raise DataError(f"{path}: names {name}, which does not exist; correct the list")
        key = re.sub(r"[^A-Za-z0-9._-]+", "-", file.parent.name) or "scene"
        found[key if key not in found else f"{key}-{len(found)}"] = load(file, source)
    return found


def _existing(folder: Path, name: str) -> Path | None:
    return folder / name if (folder / name).is_file() else None


def _frame(file: Path, name: str, picture: Path, entry: Mapping[str, Any]) -> ImportedFrame:
    where = f"{file}: frame {name}"
    c2w = np.linalg.inv(pose(entry.get("w2c"), "w2c", where))
    numbers = lens_numbers(entry, ("fx", "fy", "cx", "cy"), where)
    try:
        with Image.open(picture) as image:
            width, height = image.size
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{picture}: unreadable picture ({error}); replace or remove it") from None
    return ImportedFrame(picture, name, c2w, Lens(width, height, *numbers))
