"""Posed pictures whose cameras stand in a JSON file beside them: transforms.json, DL3DV's scenes, opencv_cameras.json.

transforms.json, of nerfstudio, instant-ngp and the Blender scenes: `transform_matrix` is camera-to-world with OpenGL
axes (x right, y up, z backward); intrinsics are per file or per frame, as fl_x or camera_angle_x; distortion is
OpenCV's (k1..k4, p1, p2) or its fisheye model.

DL3DV, as published: `<scene>/nerfstudio/transforms.json` for pictures at full size, and resized ones in `images_4`.
They are undistorted to the lens whose view holds only covered pixels (`inner_lens`), and poses turn into OpenCV axes
the way the reference's converter does (specs/lact.md section 8).

opencv_cameras.json, of LaCT: an array of {fx, fy, cx, cy, w2c, file_path}. Intrinsics are in pixels of the stored
picture; `w` and `h` are not read; `w2c` is world-to-camera with OpenCV axes (specs/lact.md).
"""

import hashlib
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from novelview.config.sources import Dl3dvSource, OpencvCamerasSource, TransformsSource
from novelview.downloads.fetch import fetch_folder, is_collected
from novelview.downloads.registry import parse_hub
from novelview.errors import ConfigError, DataError
from novelview.files import read_json
from novelview.scenes.imports.lens import Lens, inner_lens
from novelview.scenes.imports.scene import (
    SUFFIXES,
    ImportedFrame,
    ImportedScene,
    lens_numbers,
    listed_scene,
    number,
    pose,
)

log = logging.getLogger(__name__)
MODELS = ("PERSPECTIVE", "SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE")
OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
BENCHMARK = "hf://datasets/DL3DV/DL3DV-10K-Benchmark"
PLACES = ("nerfstudio", ".", "gaussian_splat")
DL3DV_WORLD = np.array([[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]])  # rows 0, 1 swapped, row 2 negated
Find = Callable[[Path, str], Path | None]  # (folder, name) -> the picture of a frame, or None


def load_transforms(path: Path, source: TransformsSource, find: Find | None = None) -> ImportedScene:
    """Read a transforms.json, given itself or its folder; raises DataError naming file, frame and key.

    find: the picture of a frame; by default the file of that name.
    """
    file = path / "transforms.json" if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"{file}: no such file; give path=FOLDER with a transforms.json, or the file itself")
    content = _read(file, "correct it")
    entries = content.pop("frames", None)

    def frame(picture: Path, name: str, entry: Mapping[str, Any]) -> ImportedFrame:
        where, entry = f"{file}: frame {name}", {**content, **entry}
        c2w = pose(entry.get("transform_matrix"), "transform_matrix", where) @ OPENGL_TO_OPENCV
        return ImportedFrame(picture, name, c2w, _lens(picture, entry, where))

    return listed_scene(file, entries, source, find or _find_picture, frame)


def _read(file: Path, advice: str) -> dict[str, Any]:
    content = read_json(file, advice)
    if not isinstance(content, dict):
        raise DataError(f"{file}: key 'frames' is missing; is it a transforms.json?")
    return content


def _find_picture(folder: Path, name: str) -> Path | None:
    """Return the picture `name` in `folder`, trying the usual suffixes when the name has none."""
    path = folder / name
    candidates = [path, *(path.with_name(path.name + suffix) for suffix in SUFFIXES)]
    return next((found for found in candidates if found.is_file()), None)


def _lens(picture: Path, entry: Mapping[str, Any], where: str) -> Lens:
    model = str(entry.get("camera_model", "OPENCV"))
    if model not in MODELS:
        raise DataError(f"{where}: camera_model {model} is not supported; convert it to one of {', '.join(MODELS)}")
    if "w" in entry or "h" in entry:
        width, height = (round(number(entry, key, where)) for key in ("w", "h"))
        if min(width, height) < 1:
            raise DataError(f"{where}: picture size {width}x{height} is not positive; correct 'w' and 'h'")
    else:
        width, height = _picture_size(picture)
    fx = _focal(entry, "fl_x", "camera_angle_x", width, where)
    fy = _focal(entry, "fl_y", "camera_angle_y", height, where, fx)
    defaults = {"fl_x": fx, "fl_y": fy, "cx": width / 2, "cy": height / 2}
    numbers = lens_numbers({**defaults, **entry}, ("fl_x", "fl_y", "cx", "cy"), where)
    k1, k2, k3, k4, p1, p2 = (number({key: 0.0, **entry}, key, where) for key in ("k1", "k2", "k3", "k4", "p1", "p2"))
    if model == "OPENCV_FISHEYE" or entry.get("is_fisheye") is True:
        return Lens(width, height, *numbers, model="OPENCV_FISHEYE", bend=(k1, k2, k3, k4))
    return Lens(width, height, *numbers, radial=(k1, k2, k3, k4), tangential=(p1, p2))


def _picture_size(picture: Path) -> tuple[int, int]:
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


def dl3dv_patterns(source: Dl3dvSource) -> list[str]:
    """Return which files of the benchmark's repository to fetch; raises ConfigError unless scenes are named."""
    scenes: Sequence[str] = ["*"] if source.subset == "full" else source.hashes
    if not scenes:
        raise ConfigError("source.hashes is empty: name scenes as source.hashes=[...], or take all: source.subset=full")
    return [f"{scene}/nerfstudio/{name}" for scene in scenes for name in ("transforms.json", f"{source.images}/*")]


def fetch_dl3dv(address: str, source: Dl3dvSource, folder: Path) -> Path:
    """Fetch the scenes asked for from the hub to a folder in `folder`, and return it; what is there is kept.

    The repository's files are listed through the hub, never from the pickled list it also holds. The data are gated:
    their licence is the data set's own.
    """
    wanted = dl3dv_patterns(source)
    place = folder / f"dl3dv-{hashlib.sha256(' '.join(wanted).encode()).hexdigest()[:8]}"
    origin = parse_hub(address, "dataset")
    if not is_collected(place, [str(origin)]):
        fetch_folder(origin, wanted, place)
    return place


def load_dl3dv(path: Path, source: Dl3dvSource) -> dict[str, dict[str, ImportedScene]]:
    """Return split -> scenes by name: the folders train/ and test/ of `path`, or all of it as `source.split`.

    Raises DataError, naming the file, for what cannot be read.
    """
    halves = [split for split in ("train", "test") if (path / split).is_dir() and not _has(path / split / PLACES[0])]
    parts = {split: path / split for split in halves} or {source.split: path}
    return {split: _landscape_scenes(part, source) for split, part in parts.items()}


def _landscape_scenes(path: Path, source: Dl3dvSource) -> dict[str, ImportedScene]:
    """Return the scenes below `path`. Portrait ones are left out and counted in the log, as the reference does."""
    found: dict[str, ImportedScene] = {}
    portrait = []
    for name, file in _scene_files(path, source.hashes).items():
        content = _read(file, "fetch it again")
        if number(content, "w", str(file)) < number(content, "h", str(file)):
            portrait.append(name)
        else:
            found[name] = _dl3dv_scene(file, source)
    if portrait:
        log.warning("%s: left out %d portrait scenes: %s", path, len(portrait), ", ".join(portrait))
    if not found:
        raise DataError(f"{path}: has no landscape scene; choose others")
    return found


def _scene_files(path: Path, hashes: Sequence[str]) -> dict[str, Path]:
    """Return scene name -> its transforms.json below `path`; raises DataError for none, or a named scene without."""
    names = list(hashes) or sorted(item.name for item in path.iterdir() if item.is_dir()) if path.is_dir() else []
    found = {}
    for name in names:
        file = next((path / name / place / "transforms.json" for place in PLACES if _has(path / name / place)), None)
        if file is not None:
            found[name] = file
        elif hashes:
            raise DataError(f"{path / name}: no nerfstudio/transforms.json; fetch the scene, or correct source.hashes")
    if not found:
        raise DataError(f"{path}: no <scene>/nerfstudio/transforms.json; give the folder that holds the scenes")
    return found


def _has(folder: Path) -> bool:
    return (folder / "transforms.json").is_file()


def _dl3dv_scene(file: Path, source: Dl3dvSource) -> ImportedScene:
    pictures = file.parent / source.images
    if not pictures.is_dir():
        raise DataError(f"{pictures}: no such folder; fetch it, or name another as source.images")
    given = TransformsSource(allow_missing=source.allow_missing)
    scene = load_transforms(file, given, lambda _, name: _find_picture(pictures, Path(name).name))
    for frame in scene.frames:
        frame.c2w = DL3DV_WORLD @ frame.c2w
    scene.flatten = inner_lens
    return scene


def load_opencv_cameras(path: Path, source: OpencvCamerasSource) -> ImportedScene:
    """Read an opencv_cameras.json, given itself or its folder; raises DataError naming file, frame and key."""
    file = path / "opencv_cameras.json" if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"{file}: no such file; give path=FOLDER with an opencv_cameras.json, or the file itself")

    def frame(picture: Path, name: str, entry: Mapping[str, Any]) -> ImportedFrame:
        where = f"{file}: frame {name}"
        c2w = np.linalg.inv(pose(entry.get("w2c"), "w2c", where))
        numbers = lens_numbers(entry, ("fx", "fy", "cx", "cy"), where)
        return ImportedFrame(picture, name, c2w, Lens(*_picture_size(picture), *numbers))

    def find(folder: Path, name: str) -> Path | None:
        return folder / name if (folder / name).is_file() else None

    return listed_scene(file, read_json(file, "correct it"), source, find, frame)


def load_opencv_list(path: Path, source: OpencvCamerasSource) -> dict[str, ImportedScene]:
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
        found[key if key not in found else f"{key}-{len(found)}"] = load_opencv_cameras(file, source)
    return found
