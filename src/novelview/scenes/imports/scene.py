"""What every importer returns, and the checks that all of them share."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image

from novelview.errors import DataError
from novelview.scenes.imports.lens import Lens, flatten

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp")
TRANSPARENT = ("RGBA", "LA", "PA")
ORTHONORMAL = 1e-3


@dataclass
class ImportedFrame:
    """One posed picture: file, name for messages and ordering, c2w [4,4] in OpenCV axes, lens in its own pixels."""

    path: Path
    name: str
    c2w: Float[NDArray, "4 4"]
    lens: Lens


@dataclass
class ImportedScene:
    """A posed collection in order.

    upright: apply the EXIF orientation; off for sources whose cameras describe the stored pixels.
    background: value in [0,1] behind transparent pixels.
    flatten: what a lens becomes when its distortion is removed.
    depth_range: z depths, 1st and 99th percentile, of what the pictures see, where the source knows points.
    missing, unregistered: files named by the source without a picture, photographs without a pose.
    """

    where: Path
    frames: list[ImportedFrame]
    upright: bool = False
    background: float = 1.0
    flatten: Callable[[Lens], Lens] = flatten
    depth_range: list[float] | None = None
    missing: list[str] = field(default_factory=list)
    unregistered: list[str] = field(default_factory=list)


def natural(name: str) -> list[tuple[int, int, str]]:
    """Return a sort key by which img2 comes before img10."""
    return [(0, int(word), word) if word.isdecimal() else (1, 0, word) for word in re.split(r"(\d+)", name)]


def ordered(
    where: Path, frames: Sequence[ImportedFrame], missing: Sequence[str], allow_missing: bool
) -> tuple[list[ImportedFrame], list[str]]:
    """Sort frames by natural name; raises DataError for no frames, repeated ones, or missing ones not allowed."""
    if missing and not allow_missing:
        raise DataError(
            f"{where}: {len(missing)} of {len(missing) + len(frames)} pictures do not exist, first {missing[0]}; "
            "restore them, or set source.allow_missing=true to leave them out"
        )
    if not frames:
        raise DataError(f"{where}: none of its {len(missing)} pictures exists; check the folder beside it")
    frames = sorted(frames, key=lambda frame: natural(frame.name))
    for one, two in pairwise(frames):
        if one.path == two.path:
            raise DataError(f"{where}: {one.name} is named twice; remove one of the entries")
    return frames, sorted(missing, key=natural)


class JsonSource(Protocol):
    """The configuration keys of sources whose cameras stand in a JSON file."""

    background: float
    allow_missing: bool


def listed_scene(
    file: Path,
    entries: Any,
    source: JsonSource,
    find: Callable[[Path, str], Path | None],
    make: Callable[[Path, str, Mapping[str, Any]], ImportedFrame],
) -> ImportedScene:
    """Build a scene of a JSON list whose entries name their picture in `file_path`; raises DataError for another form.

    find: (folder, name) -> picture or None; make: (picture, name, entry) -> frame.
    """
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"{file}: holds no list of frames; correct it")
    frames: list[ImportedFrame] = []
    missing: list[str] = []
    for row, entry in enumerate(entries):
        name = entry.get("file_path")
        if not isinstance(name, str) or not name:
            raise DataError(f"{file}: frame {row}: key 'file_path' is missing; add it")
        picture = find(file.parent, name)
        if picture is None:
            missing.append(name)
        else:
            frames.append(make(picture, name, entry))
    frames, missing = ordered(file, frames, missing, source.allow_missing)
    return ImportedScene(file, frames, background=source.background, missing=missing)


def number(entry: Mapping[str, Any], key: str, where: str) -> float:
    """Return a finite number of a JSON object; raises DataError naming the key."""
    value = entry.get(key)
    if value is None:
        raise DataError(f"{where}: key '{key}' is missing; add it")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"{where}: key '{key}' is {value!r}, not a number; correct it")
    return float(value)


def pose(value: Any, key: str, where: str) -> Float[NDArray, "4 4"]:
    """Return a rigid 4x4 matrix from nested lists (3x4 gets its last row); raises DataError naming the key."""
    if value is None:
        raise DataError(f"{where}: key '{key}' is missing; add it")
    try:
        matrix = np.array(value, np.float64)
    except (ValueError, TypeError):
        matrix = np.zeros(0)
    if matrix.shape not in ((4, 4), (3, 4)) or not np.isfinite(matrix).all():
        raise DataError(f"{where}: key '{key}' is no finite 4x4 matrix; correct it")
    matrix = np.concatenate([matrix[:3], [[0.0, 0.0, 0.0, 1.0]]])
    rotation = matrix[:3, :3]
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > ORTHONORMAL or np.linalg.det(rotation) < 0:
        raise DataError(f"{where}: the rotation in '{key}' is not orthonormal and right-handed; correct it")
    return matrix


def lens_numbers(entry: Mapping[str, Any], keys: Sequence[str], where: str) -> tuple[float, float, float, float]:
    """Return fx, fy, cx, cy under the given keys; raises DataError for a focal length that is not positive."""
    fx, fy, cx, cy = (number(entry, key, where) for key in keys)
    for key, value in zip(keys[:2], (fx, fy), strict=True):
        if value <= 0:
            raise DataError(f"{where}: focal length '{key}' is {value}; it must be positive")
    return fx, fy, cx, cy


def eight_bit(picture: Image.Image) -> Image.Image:
    """Return a picture as RGB, or RGBA where it has transparency; raises ValueError for 32-bit pixels.

    PIL would clip 16-bit grey at 255; it is scaled instead.
    """
    if picture.mode.startswith("I;16"):
        grey = np.asarray(picture).astype(np.float32) / 257
        return Image.fromarray(grey.round().astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise ValueError("its pixels have 32 bits, of unknown range; convert it to 8 bits")
    transparent = picture.mode in TRANSPARENT or "transparency" in picture.info
    return picture.convert("RGBA" if transparent else "RGB")
