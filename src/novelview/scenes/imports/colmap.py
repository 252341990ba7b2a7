"""COLMAP sparse models, text and binary (colmap.github.io/format.html), and plain photographs that pycolmap poses.

Lenses and rotations are pycolmap's. The two tables are read here, because `pycolmap.Reconstruction` (4.2) takes damaged
files as they are, needs points3D, and reserves memory for whatever count a file claims."""

import functools
import logging
import struct
import tempfile
from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pycolmap
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import ImageOps

from novelview.config.sources import ColmapSource, PhotosSource
from novelview.errors import DataError
from novelview.files import read_json
from novelview.scenes.imports import scene
from novelview.scenes.imports.reconstruct import QUALITY, run_apart
from novelview.scenes.imports.scene import ImportedFrame, ImportedScene, Lens, ordered_scene

logger = logging.getLogger(__name__)
ORIENTATION = 0x0112
FEWEST = 3
ADVICE = "take more overlapping, sharp photographs of a scene that stands still"


class Pose(NamedTuple):
    """A registered image: file name, camera number, world-to-camera [4,4]."""

    name: str
    camera: int
    w2c: Float[NDArray, "4 4"]


def load(path: Path, source: ColmapSource) -> ImportedScene:
    """Read the model under `path` (itself, sparse/0 or sparse) and its pictures; raises DataError, one line."""
    folders = (path, path / "sparse" / "0", path / "sparse")
    found = [folder for folder in folders for suffix in ("bin", "txt") if (folder / f"cameras.{suffix}").is_file()]
    if not found:
        raise DataError(f"{path}: no COLMAP model (cameras.bin or cameras.txt) here or in sparse/0; correct the path")
    model, images = found[0], path / source.images
    if not images.is_dir():
        raise DataError(f"{images}: no such folder; name the pictures' folder with source.images=")
    lenses, poses = read_model(model)
    for pose in poses:
        if pose.camera not in lenses:
            raise DataError(f"{model}: image {pose.name} has camera {pose.camera}, which the model lacks; export again")
    given = [(images / pose.name, pose.name, np.linalg.inv(pose.w2c), lenses[pose.camera]) for pose in poses]
    frames = [ImportedFrame(*row) for row in given]
    missing = [frame.name for frame in frames if not frame.path.is_file()]
    return ordered_scene(model, [frame for frame in frames if frame.name not in missing], missing, source.allow_missing)


def read_model(folder: Path) -> tuple[dict[int, Lens], list[Pose]]:
    """Return the lenses by camera number and the registered images; raises DataError naming the damaged file."""
    suffix = "bin" if (folder / "cameras.bin").is_file() else "txt"
    cameras, images = (_cameras_bin, _images_bin) if suffix == "bin" else (_cameras_txt, _images_txt)
    lenses, poses = dict(_read(folder / f"cameras.{suffix}", cameras)), _read(folder / f"images.{suffix}", images)
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


def load_photographs(path: Path, source: PhotosSource, log: Path, threads: int = 0) -> scene.ImportedScene:
    """Reconstruct the photographs in `path`, output to `log`; DataError for few, unreadable or unregistered."""
    photographs = list_photographs(path)
    with tempfile.TemporaryDirectory(prefix="novelview-photos-") as work:
        copies, sizes = _upright_copies(photographs, Path(work) / "images")
        _refuse_mixed(photographs, sizes, source.single_camera)
        job = {"camera_model": source.camera_model, "single_camera": source.single_camera, "seed": source.seed}
        job |= {"images": str(Path(work) / "images"), "names": list(copies)}
        logger.info("reconstructing %d photographs; log: %s", len(copies), log)
        model = run_apart(job, Path(work), log, threads)
        lenses, poses = read_model(model) if model.is_dir() else ({}, [])
        depths = read_json(model / QUALITY)["depth_range"] if model.is_dir() else None
    registered = {copies[pose.name]: (np.linalg.inv(pose.w2c), lenses[pose.camera]) for pose in poses}
    if len(registered) < max(FEWEST, source.min_registered * len(photographs)):
        raise DataError(
            f"{path}: {len(registered)} of {len(photographs)} photographs could be registered, source.min_registered="
            f"{source.min_registered} asks for {source.min_registered:.0%}; {ADVICE}, or lower it; log: {log}"
        )
    found = [photo for photo in photographs if photo in registered]
    frames = [scene.ImportedFrame(photo, photo.name, *registered[photo]) for photo in found]
    unregistered = [photo.name for photo in photographs if photo not in registered]
    return scene.ImportedScene(path, frames, upright=True, depth_range=depths, unregistered=unregistered)


def list_photographs(path: Path) -> list[Path]:
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; give the photographs' folder as path=FOLDER")
    found = [item for item in path.iterdir() if item.suffix.lower() in scene.SUFFIXES and not item.name.startswith(".")]
    if len(found) < FEWEST:
        counted = f"{len(found)} photographs ({', '.join(scene.SUFFIXES)}) here, at least {FEWEST} are needed"
        raise DataError(f"{path}: {counted}; correct the path or convert the photographs")
    return sorted(found, key=lambda item: scene.natural(item.name))


def _upright_copies(photographs: list[Path], folder: Path) -> tuple[dict[str, Path], list[tuple[int, int]]]:
    """Lay the photographs out for pycolmap as links or upright copies; return them by their names there, and sizes."""
    folder.mkdir()
    copies: dict[str, Path] = {}
    sizes: list[tuple[int, int]] = []
    for number, photo in enumerate(photographs):
        with scene.opened_picture(photo, "photograph") as image:
            turned = image.getexif().get(ORIENTATION, 1) != 1
            linked = not turned and image.format in ("JPEG", "PNG") and not image.mode.startswith("I")
            image.load()
            name = f"{number:06d}{photo.suffix.lower() if linked else '.jpg'}"
            upright = image if linked else ImageOps.exif_transpose(image)
            if linked:
                (folder / name).symlink_to(photo.absolute())
            else:
                # The EXIF block keeps the focal length, pycolmap's first guess.
                scene.eight_bit(upright).convert("RGB").save(folder / name, quality=97, exif=upright.getexif())
        copies[name] = photo
        sizes.append(upright.size)
    return copies, sizes


def _refuse_mixed(photographs: list[Path], sizes: list[tuple[int, int]], single_camera: bool) -> None:
    """Raise DataError, before minutes of reconstruction, for photographs that cannot become one data set."""
    width, height = sizes[0]
    for photo, (across, down) in zip(photographs, sizes, strict=True):
        if abs(across / down * height / width - 1) > scene.SAME_SHAPE:
            advice = "import photographs of different shapes or orientations as separate data sets"
        elif (across, down) != (width, height) and single_camera:
            advice = "set source.single_camera=false if they were taken at different resolutions"
        else:
            continue
        raise DataError(f"{photo}: {across}x{down}, but {photographs[0].name} is {width}x{height}; {advice}")
