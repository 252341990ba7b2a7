"""COLMAP sparse models, text and binary (colmap.github.io/format.html).

Lenses and rotations are pycolmap's. The tables are read here, because `pycolmap.Reconstruction` (4.2) takes damaged
files as they are, needs points3D, and reserves memory for whatever count a file claims."""

import functools
import logging
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pycolmap
from jaxtyping import Float, Int
from numpy.typing import NDArray

from novelview.config.sources import ColmapSource
from novelview.errors import DataError
from novelview.scenes.imports.scene import SUFFIXES, ImportedFrame, ImportedScene, Lens, natural, ordered_scene

logger = logging.getLogger(__name__)


class Pose(NamedTuple):
    """A registered image: file name, camera number, world-to-camera [4,4], numbers of the points that it sees."""

    name: str
    camera: int
    w2c: Float[NDArray, "4 4"]
    seen: Int[NDArray, " n"]


def load(path: Path, source: ColmapSource) -> ImportedScene:
    """Read the model under `path` and its pictures: in itself, or the one with most images of sparse/ and its folders.

    Raises DataError, one line."""
    if not path.is_dir():
        raise DataError(f"{path}: {'is a file' if path.exists() else 'no such folder'}; give the folder of the model")
    parts = [place for above in (path, path / "colmap") for place in _folders(above / "sparse")]
    found = [path] if _suffix(path) else [place for place in parts if _suffix(place)]
    if not found:
        raise DataError(f"{path}: no COLMAP model (cameras.bin or cameras.txt) here or in sparse/; correct the path")
    images = path / source.images
    if not images.is_dir():
        raise DataError(f"{images}: no such folder; name the pictures' folder with source.images=")
    models = {folder: read_model(folder) for folder in found}
    model = max(found, key=lambda folder: len(models[folder][1]))
    lenses, poses = models[model]
    if len(found) > 1:
        others = ", ".join(f"{folder} ({len(models[folder][1])})" for folder in found if folder != model)
        logger.warning("%s: of %d models, the one with most images (%d); not %s", model, len(found), len(poses), others)
    for pose in poses:
        if pose.camera not in lenses:
            raise DataError(f"{model}: image {pose.name} has camera {pose.camera}, which the model lacks; export again")
    given = [(images / pose.name, pose.name, np.linalg.inv(pose.w2c), lenses[pose.camera]) for pose in poses]
    frames = [ImportedFrame(*row) for row in given]
    missing = [frame.name for frame in frames if not frame.path.is_file()]
    whole = ordered_scene(model, [one for one in frames if one.name not in missing], missing, source.allow_missing)
    pictures = (file for file in images.rglob("*") if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))
    names = {str(file.relative_to(images)) for file in pictures}
    whole.unregistered = sorted(names - {pose.name for pose in poses}, key=natural)
    whole.depth_range = depth_range(model, poses)
    whole.frames = with_masks(whole.frames, path / "masks")
    return whole


def with_masks(frames: list[ImportedFrame], folder: Path) -> list[ImportedFrame]:
    """Return frames with the masks that lie where COLMAP's own tools look for them: `masks/NAME.png`, black: no."""
    places = [(frame, folder / f"{frame.name}.png") for frame in frames]
    return [replace(frame, mask=mask) if mask.is_file() else frame for frame, mask in places]


def _folders(path: Path) -> list[Path]:
    return [path, *sorted(item for item in path.iterdir() if item.is_dir())] if path.is_dir() else []


def _suffix(folder: Path) -> str:
    return next((suffix for suffix in ("bin", "txt") if (folder / f"cameras.{suffix}").is_file()), "")


def read_model(folder: Path) -> tuple[dict[int, Lens], list[Pose]]:
    """Return the lenses by camera number and the registered images; raises DataError naming the damaged file."""
    suffix = _suffix(folder) or "txt"
    cameras, images = (_cameras_bin, _images_bin) if suffix == "bin" else (_cameras_txt, _images_txt)
    lenses, poses = dict(_read(folder / f"cameras.{suffix}", cameras)), _read(folder / f"images.{suffix}", images)
    if not poses:
        raise DataError(f"{folder}: the model has no registered images; reconstruct again")
    return lenses, poses


def depth_range(folder: Path, poses: Sequence[Pose]) -> list[float] | None:
    """Return the 1st and 99th percentile of the z depths at which the images see the model's points; None without
    points; raises DataError for a damaged file of points."""
    suffix = _suffix(folder)
    path = folder / f"points3D.{suffix}"
    if not path.is_file():
        return None
    places = dict(_read(path, _points_bin if suffix == "bin" else _points_txt))
    depths = [np.zeros(0)]
    for pose in poses:
        seen = np.array([places[number] for number in pose.seen.tolist() if number in places]).reshape(-1, 3)
        depths.append(seen @ pose.w2c[2, :3] + pose.w2c[2, 3])
    joined = np.concatenate(depths)
    return np.percentile(joined[joined > 0], [1, 99]).tolist() if (joined > 0).any() else None


def _points_bin(content: bytes) -> Iterator[tuple[int, tuple[float, ...]]]:
    (count,), at = struct.unpack_from("<Q", content), 8
    for _ in range(count):
        number, x, y, z, *_, track = struct.unpack_from("<Q3d3BdQ", content, at)
        yield number, _finite((x, y, z))
        at += 51 + 8 * track


def _points_txt(content: bytes) -> Iterator[tuple[int, tuple[float, ...]]]:
    for line in _lines(content):
        if words := line.split():
            yield int(words[0]), _finite(tuple(map(float, words[1:4])))


def _finite(place: tuple[float, ...]) -> tuple[float, ...]:
    if len(place) != 3 or not np.isfinite(place).all():
        raise ValueError(f"a point at {place}")
    return place


def _read(path: Path, reader: Callable[[bytes], Iterator]) -> list:
    try:
        return list(reader(path.read_bytes()))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; export the whole model") from None
    except (struct.error, ValueError, IndexError, OverflowError) as error:
        raise DataError(f"{path}: damaged COLMAP model ({error}); export it again") from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def _cameras_bin(content: bytes) -> Iterator[tuple[int, Lens]]:
    (cameras,), at = struct.unpack_from("<Q", content), 8
    for _ in range(cameras):
        camera, model, width, height = struct.unpack_from("<iiQQ", content, at)
        if model not in _models():
            raise DataError(f"camera model number {model} is not supported; undistort the images with COLMAP")
        name, keys = _models()[model]
        yield camera, _lens(name, width, height, struct.unpack_from(f"<{len(keys)}d", content, at + 24))
        at += 24 + 8 * len(keys)


def _images_bin(content: bytes) -> Iterator[Pose]:
    (count,), at = struct.unpack_from("<Q", content), 8
    for _ in range(count):
        numbers = struct.unpack_from("<I7dI", content, at)
        end = content.index(b"\0", at + 64)
        (points,) = struct.unpack_from("<Q", content, end + 1)
        row = np.dtype([("x", "<f8"), ("y", "<f8"), ("point", "<i8")])
        seen = np.frombuffer(content, row, min(points, len(content)), end + 9)["point"]
        yield Pose(content[at + 64 : end].decode(), numbers[8], _w2c(numbers[1:5], numbers[5:8]), seen[seen >= 0])
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
        seen = np.array(points.split()[2::3], np.int64)
        if len(points.split()) % 3:
            raise ValueError("an image has no line of points after it; keep the empty lines")
        if line.strip():
            words = line.split(maxsplit=9)
            numbers = tuple(map(float, words[1:8]))
            yield Pose(words[9], int(words[8]), _w2c(numbers[:4], numbers[4:]), seen[seen >= 0])


def _w2c(quaternion: tuple[float, ...], translation: tuple[float, ...]) -> Float[NDArray, "4 4"]:
    """Return the pose of a Hamilton quaternion (w, x, y, z) and a translation."""
    length = float(np.linalg.norm(quaternion))
    if not np.isfinite([*quaternion, *translation]).all() or abs(length - 1) > 1e-2:
        raise DataError(f"quaternion {tuple(quaternion)} is not of unit length; export the model again")
    matrix = np.eye(4)
    matrix[:3, :3] = pycolmap.Rotation3d(np.roll(quaternion, -1) / length).matrix()
    matrix[:3, 3] = translation
    return matrix


@functools.cache
def _models() -> dict[int, tuple[str, list[str]]]:
    """Return COLMAP's models of a lens: number in binary files -> name and names of the parameters."""
    found: dict[int, tuple[str, list[str]]] = {}
    for name, number in pycolmap.CameraModelId.__members__.items():
        if name not in ("INVALID", "EQUIRECTANGULAR"):  # the picture of the latter is the whole sphere
            camera = pycolmap.Camera.create_from_model_id(1, number, 1.0, 1, 1)
            found[int(number)] = name, camera.params_info.split(", ")
    return found


def _lens(model: str, width: int, height: int, params: tuple[float, ...]) -> Lens:
    keys = dict(_models().values()).get(model)
    if keys is None:
        raise DataError(f"camera model {model} is not supported; undistort the images with COLMAP")
    count = 1 if keys[0] == "f" else 2
    if len(params) != len(keys) or not np.isfinite(params).all() or min(params[:count]) <= 0:
        raise DataError(f"camera model {model} has wrong parameters {params}; export the model again")
    if min(width, height) < 1:
        raise DataError(f"camera model {model} is of {width}x{height} pixels; export the model again")
    fx, fy, cx, cy, *bend = params if count == 2 else (params[0], *params)
    bent = "FISHEYE" in model or any(bend)
    return Lens(width, height, fx, fy, cx, cy, model=model if bent else "", bend=tuple(bend) if bent else ())
