"""COLMAP sparse models, text and binary (file format of colmap.github.io/format.html); points are not read."""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from novelview.config.sources import ColmapSource
from novelview.errors import DataError
from novelview.scenes.imports.lens import Lens
from novelview.scenes.imports.scene import ImportedFrame, ImportedScene, ordered

PARAMETERS = {  # in COLMAP's order: a binary file names a model by its number
    "SIMPLE_PINHOLE": 3,
    "PINHOLE": 4,
    "SIMPLE_RADIAL": 4,
    "RADIAL": 5,
    "OPENCV": 8,
    "OPENCV_FISHEYE": 8,
    "FULL_OPENCV": 12,
    "FOV": 5,
    "SIMPLE_RADIAL_FISHEYE": 4,
    "RADIAL_FISHEYE": 5,
    "THIN_PRISM_FISHEYE": 12,
}
NAMES = list(PARAMETERS)
SUPPORTED = NAMES[:6]


@dataclass
class Pose:
    """A registered image: file name, camera number, world-to-camera [4,4]."""

    name: str
    camera: int
    w2c: Float[NDArray, "4 4"]


def load(path: Path, source: ColmapSource) -> ImportedScene:
    """Read the model under `path` (itself, sparse/0 or sparse) and its pictures; raises DataError, one line."""
    model = find_model(path)
    images = path / source.images
    if not images.is_dir():
        raise DataError(f"{images}: no such folder; name the pictures' folder with source.images=")
    lenses, poses = read_model(model)
    frames: list[ImportedFrame] = []
    missing: list[str] = []
    for entry in poses:
        if entry.camera not in lenses:
            raise DataError(
                f"{model}: image {entry.name} has camera {entry.camera}, which the model lacks; export again"
            )
        if (images / entry.name).is_file():
            c2w = np.linalg.inv(entry.w2c)
            frames.append(ImportedFrame(images / entry.name, entry.name, c2w, lenses[entry.camera]))
        else:
            missing.append(entry.name)
    frames, missing = ordered(model, frames, missing, source.allow_missing)
    return ImportedScene(model, frames, missing=missing)


def find_model(path: Path) -> Path:
    """Return the folder with cameras.bin or cameras.txt; raises DataError when there is none."""
    for folder in (path, path / "sparse" / "0", path / "sparse"):
        if any((folder / f"cameras.{suffix}").is_file() for suffix in ("bin", "txt")):
            return folder
    raise DataError(f"{path}: no COLMAP model (cameras.bin or cameras.txt) here or in sparse/0; correct the path")


def read_model(folder: Path) -> tuple[dict[int, Lens], list[Pose]]:
    """Return the lenses by camera number and the registered images; raises DataError naming the damaged file."""
    suffix = "bin" if (folder / "cameras.bin").is_file() else "txt"
    readers = (_cameras_bin, _images_bin) if suffix == "bin" else (_cameras_txt, _images_txt)
    lenses = dict(_read(folder / f"cameras.{suffix}", readers[0]))
    poses = list(_read(folder / f"images.{suffix}", readers[1]))
    if not poses:
        raise DataError(f"{folder}: the model has no registered images; reconstruct again")
    return lenses, poses


def _read(path: Path, reader: Callable[[bytes], Iterator]) -> list:
    try:
        return list(reader(path.read_bytes()))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; export the whole model") from None
    except (struct.error, ValueError, IndexError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: damaged COLMAP model ({error}); export it again") from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _cameras_bin(content: bytes) -> Iterator[tuple[int, Lens]]:
    (cameras,), at = struct.unpack_from("<Q", content), 8
    for _ in range(cameras):
        camera, model, width, height = struct.unpack_from("<iiQQ", content, at)
        if not 0 <= model < len(NAMES):
            raise DataError(f"camera model number {model} is not supported; undistort the images with COLMAP")
        count = PARAMETERS[NAMES[model]]
        params = struct.unpack_from(f"<{count}d", content, at + 24)
        at += 24 + 8 * count
        yield camera, _lens(NAMES[model], width, height, params)


def _images_bin(content: bytes) -> Iterator[Pose]:
    (count,), at = struct.unpack_from("<Q", content), 8
    for _ in range(count):
        numbers = struct.unpack_from("<I7dI", content, at)
        end = content.index(b"\0", at + 64)
        yield Pose(content[at + 64 : end].decode(), numbers[8], _w2c(numbers[1:5], numbers[5:8]))
        (points,) = struct.unpack_from("<Q", content, end + 1)
        at = end + 9 + 24 * points


def _lines(content: bytes) -> list[str]:
    return [line for line in content.decode().splitlines() if not line.startswith("#")]


def _cameras_txt(content: bytes) -> Iterator[tuple[int, Lens]]:
    for line in _lines(content):
        if line.strip():
            camera, model, width, height, *params = line.split()
            yield int(camera), _lens(model, int(width), int(height), tuple(map(float, params)))


def _images_txt(content: bytes) -> Iterator[Pose]:
    # Two lines an image; the second lists its points and may be empty.
    lines = _lines(content)
    for line, points in zip_longest(lines[::2], lines[1::2], fillvalue=""):
        if len(points.split()) % 3:
            raise ValueError("an image has no line of points after it; keep the empty lines")
        if line.strip():
            words = line.split(maxsplit=9)
            numbers = tuple(map(float, words[1:8]))
            yield Pose(words[9], int(words[8]), _w2c(numbers[:4], numbers[4:]))


def _w2c(quaternion: tuple[float, ...], translation: tuple[float, ...]) -> Float[NDArray, "4 4"]:
    """Return the pose of a Hamilton quaternion (w, x, y, z) and a translation."""
    length = float(np.linalg.norm(quaternion))
    if not np.isfinite([*quaternion, *translation]).all() or abs(length - 1) > 1e-2:
        raise DataError(f"quaternion {tuple(quaternion)} is not of unit length; export the model again")
    w, x, y, z = np.array(quaternion) / length
    matrix = np.eye(4)
    matrix[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    matrix[:3, 3] = translation
    return matrix


def _lens(model: str, width: int, height: int, params: tuple[float, ...]) -> Lens:
    if model not in SUPPORTED:
        raise DataError(
            f"camera model {model} is not supported (only {', '.join(SUPPORTED)}); undistort the images with COLMAP"
        )
    focal = params[:1] if model.startswith("SIMPLE") or model == "RADIAL" else params[:2]
    if len(params) != PARAMETERS[model] or not np.isfinite(params).all() or min(focal) <= 0:
        raise DataError(f"camera model {model} has wrong parameters {params}; export the model again")
    if min(width, height) < 1:
        raise DataError(f"camera model {model} is of {width}x{height} pixels; export the model again")
    fx, fy, cx, cy = (params[0], *params[:3]) if len(focal) == 1 else params[:4]
    rest = params[3:] if len(focal) == 1 else params[4:]
    fisheye = model == "OPENCV_FISHEYE"
    radial = rest if fisheye else rest[:2]
    tangential = rest[2:4] if model == "OPENCV" else (0.0, 0.0)
    k1, k2, k3, k4 = (*radial, 0.0, 0.0, 0.0, 0.0)[:4]
    return Lens(width, height, fx, fy, cx, cy, (k1, k2, k3, k4), (tangential[0], tangential[1]), fisheye)
