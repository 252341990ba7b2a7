"""`transforms.json` of nerfstudio, instant-ngp and the Blender scenes.

`transform_matrix` is camera-to-world with OpenGL axes (x right, y up, z backward); intrinsics are per file or per
frame, as fl_x or camera_angle_x; distortion is OpenCV's (k1..k4, p1, p2) or its fisheye model.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from novelview.config.sources import TransformsSource
from novelview.errors import DataError
from novelview.files import read_json
from novelview.scenes.imports.lens import Lens
from novelview.scenes.imports.scene import (
    SUFFIXES,
    ImportedFrame,
    ImportedScene,
    lens_numbers,
    named_frames,
    number,
    ordered,
    pose,
)

MODELS = {
    "PERSPECTIVE": False,
    "SIMPLE_PINHOLE": False,
    "PINHOLE": False,
    "SIMPLE_RADIAL": False,
    "RADIAL": False,
    "OPENCV": False,
    "OPENCV_FISHEYE": True,
}
OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])


def load(path: Path, source: TransformsSource, find: Callable[[Path, str], Path | None] | None = None) -> ImportedScene:
    """Read a transforms.json, given itself or its folder; raises DataError naming file, frame and key.

    find: (folder, name) -> the picture of a frame, or None; by default the file of that name.
    """
    file = path / "transforms.json" if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"{file}: no such file; give path=FOLDER with a transforms.json, or the file itself")
    content = read_json(file, "correct it")
    if not isinstance(content, dict):
        raise DataError(f"{file}: key 'frames' is missing; is it a transforms.json?")
    entries = content.pop("frames", None)
    frames, missing = named_frames(
        file,
        entries,
        find or find_picture,
        lambda picture, name, entry: _frame(file, name, picture, {**content, **entry}),
    )
    frames, missing = ordered(file, frames, missing, source.allow_missing)
    return ImportedScene(file, frames, background=source.background, missing=missing)


def find_picture(folder: Path, name: str) -> Path | None:
    """Return the picture `name` in `folder`, trying the usual suffixes when the name has none."""
    path = folder / name
    candidates = [path, *(path.with_name(path.name + suffix) for suffix in SUFFIXES)]
    return next((found for found in candidates if found.is_file()), None)


def _frame(file: Path, name: str, picture: Path, entry: Mapping[str, Any]) -> ImportedFrame:
    where = f"{file}: frame {name}"
    c2w = pose(entry.get("transform_matrix"), "transform_matrix", where) @ OPENGL_TO_OPENCV
    return ImportedFrame(picture, name, c2w, _lens(picture, entry, where))


def _lens(picture: Path, entry: Mapping[str, Any], where: str) -> Lens:
    model = str(entry.get("camera_model", "OPENCV"))
    if model not in MODELS:
        raise DataError(f"{where}: camera_model {model} is not supported; convert it to one of {', '.join(MODELS)}")
    width, height = _size(picture, entry, where)
    fx = _focal(entry, "fl_x", "camera_angle_x", width, where)
    fy = _focal(entry, "fl_y", "camera_angle_y", height, where, fx)
    defaults = {"fl_x": fx, "fl_y": fy, "cx": width / 2, "cy": height / 2}
    numbers = lens_numbers({**defaults, **entry}, ("fl_x", "fl_y", "cx", "cy"), where)
    k1, k2, k3, k4, p1, p2 = (number({key: 0.0, **entry}, key, where) for key in ("k1", "k2", "k3", "k4", "p1", "p2"))
    fisheye = MODELS[model] or entry.get("is_fisheye") is True
    return Lens(width, height, *numbers, radial=(k1, k2, k3, k4), tangential=(p1, p2), fisheye=fisheye)


def _size(picture: Path, entry: Mapping[str, Any], where: str) -> tuple[int, int]:
    if "w" in entry or "h" in entry:
        width, height = (round(number(entry, key, where)) for key in ("w", "h"))
        if min(width, height) < 1:
            raise DataError(f"{where}: picture size {width}x{height} is not positive; correct 'w' and 'h'")
        return width, height
    try:
        with Image.open(picture) as image:
            return image.size
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{picture}: unreadable picture ({error}); replace or remove it") from None


def _focal(
    entry: Mapping[str, Any], key: str, angle_key: str, side: int, where: str, default: float | None = None
) -> float:
    """Return a focal length in pixels: given, from the field of view, or else `default`."""
    if entry.get(key) is not None:
        return number(entry, key, where)
    if entry.get(angle_key) is None:
        if default is None:
            raise DataError(f"{where}: neither '{key}' nor '{angle_key}' is given; add one of them")
        return default
    angle = number(entry, angle_key, where)
    if not 0 < angle < math.pi:
        raise DataError(f"{where}: '{angle_key}' is {angle}; a field of view lies between 0 and pi radians")
    return side / 2 / math.tan(angle / 2)
