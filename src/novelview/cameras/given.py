"""Cameras in people's JSON files: numbers and poses that are checked, and camera paths of ours and of nerfstudio.

Ours: {"width", "height": pixels, "fps", "cameras": [{"c2w": 4x4 camera-to-world, OpenCV axes, "fx", "fy", "cx", "cy":
pixels}]}. nerfstudio's viewer exports {"render_width", "render_height", "camera_path": [{"camera_to_world": 16 numbers,
OpenGL axes, "fov": vertical, degrees}]}."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from novelview.errors import DataError
from novelview.files import read_json, write_json

OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
ORTHONORMAL = 1e-3
ADVICE = "correct it, or write it again with io.cameras="


def number(entry: Mapping[str, Any], key: str, where: str) -> float:
    """Return a finite number of a JSON object; DataError with file and key for anything else."""
    value = entry.get(key)
    if value is None:
        raise DataError(f"{where}: key '{key}' is missing; add it")
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"{where}: key '{key}' is {value!r}, not a number; correct it")
    return float(value)


def pose(entry: Mapping[str, Any], key: str, where: str) -> Float[NDArray, "4 4"]:
    """Return a rigid 4x4 matrix from nested lists or 16 numbers, row by row; 3x4 gets its last row."""
    if entry.get(key) is None:
        raise DataError(f"{where}: key '{key}' is missing; add it")
    try:
        matrix = np.array(entry[key], np.float64)
    except (ValueError, TypeError, OverflowError):
        matrix = np.zeros(0)
    matrix = matrix.reshape(4, 4) if matrix.shape == (16,) else matrix
    if matrix.shape not in ((4, 4), (3, 4)) or not np.isfinite(matrix).all():
        raise DataError(f"{where}: key '{key}' is no finite 4x4 matrix; correct it")
    matrix = np.concatenate([matrix[:3], [[0.0, 0.0, 0.0, 1.0]]])
    turn = matrix[:3, :3]
    with np.errstate(over="ignore"):
        rigid = np.abs(turn @ turn.T - np.eye(3)).max() <= ORTHONORMAL and np.linalg.det(turn) > 0
    if not rigid:
        raise DataError(f"{where}: the rotation in '{key}' is not orthonormal and right-handed; correct it")
    return matrix


def lens_numbers(entry: Mapping[str, Any], keys: Sequence[str], where: str) -> tuple[float, float, float, float]:
    """Return fx fy cx cy in pixels under four keys; the focal lengths are positive."""
    fx, fy, cx, cy = (number(entry, key, where) for key in keys)
    for key, value in zip(keys, (fx, fy), strict=False):
        if value <= 0:
            raise DataError(f"{where}: focal length '{key}' is {value}; it must be positive")
    return fx, fy, cx, cy


def read_path(path: Path | str, height: int, width: int) -> tuple[Float[Tensor, "n 4 4"], Float[Tensor, "n 4"]]:
    """Return c2w and fx fy cx cy, in pixels of height x width, of the cameras in a file of ours or of nerfstudio's.

    Where it was made for pictures of another shape, the vertical field of view stays. Raises DataError, one line with
    file and key, for what is neither, and for numbers that no camera has."""
    content = read_json(path, ADVICE)
    content = content if isinstance(content, dict) else {}
    nerfstudio = "camera_path" in content
    cameras = content.get("camera_path" if nerfstudio else "cameras")
    if not isinstance(cameras, list) or not cameras or not all(isinstance(camera, dict) for camera in cameras):
        raise DataError(f"{path}: holds no list 'cameras' of ours, nor nerfstudio's 'camera_path'; {ADVICE}")
    names = ("render_width", "render_height") if nerfstudio else ("width", "height")
    wide, high = (number(content, name, str(path)) for name in names)
    if min(wide, high) < 1:
        raise DataError(f"{path}: '{names[0]}' and '{names[1]}' are {wide:g} and {high:g}; they must be positive")
    poses, lenses = [], []
    for row, camera in enumerate(cameras):
        where = f"{path}: camera {row}"
        if nerfstudio:
            kind = content.get("camera_type", "perspective")
            if kind != "perspective":
                raise DataError(f"{path}: 'camera_type' is {kind!r}; only perspective cameras are rendered")
            poses.append(pose(camera, "camera_to_world", where) @ OPENGL_TO_OPENCV)
            fov = number(camera, "fov", where)
            if not 0 < fov < 180:
                raise DataError(f"{where}: 'fov' is {fov:g}; it lies between 0 and 180 degrees")
            focal = high / 2 / math.tan(math.radians(fov) / 2)
            lens = focal, focal, wide / 2, high / 2
        else:
            poses.append(pose(camera, "c2w", where))
            lens = lens_numbers(camera, ("fx", "fy", "cx", "cy"), where)
        scale = height / high
        across = width / 2 + (lens[2] - wide / 2) * scale
        lenses.append([lens[0] * scale, lens[1] * scale, across, lens[3] * scale])
    return torch.from_numpy(np.stack(poses)).float(), torch.tensor(lenses)


def write_path(
    path: Path | str, c2w: Float[Tensor, "n 4 4"], intrinsics: Float[Tensor, "n 4"], height: int, width: int, fps: int
) -> None:
    """Write cameras, fx fy cx cy in pixels of height x width, as `read_path` reads them."""
    rows = zip(c2w.tolist(), intrinsics.tolist(), strict=True)
    cameras = [{"c2w": matrix, **dict(zip(("fx", "fy", "cx", "cy"), lens, strict=True))} for matrix, lens in rows]
    write_json(path, {"width": width, "height": height, "fps": fps, "cameras": cameras})
