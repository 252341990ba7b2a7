"""Posed pictures whose cameras stand in a JSON file beside them: transforms.json, DL3DV's scenes, opencv_cameras.json.

transforms.json, of nerfstudio, instant-ngp and the Blender scenes: `transform_matrix` is camera-to-world with OpenGL
axes (x right, y up, z backward); intrinsics are per file or frame; distortion is OpenCV's or its fisheye model.
DL3DV: `<scene>/nerfstudio/transforms.json` for pictures at full size, and resized ones in `images_4`, undistorted to
`inner_lens`; poses turn into OpenCV axes as in the reference's converter (specs/lact.md section 8).
opencv_cameras.json, of LaCT: an array of {fx, fy, cx, cy, w2c, file_path}, intrinsics in pixels of the stored picture
(`w` and `h` are not read), world-to-camera with OpenCV axes (specs/lact.md)."""

import hashlib
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from novelview.cameras.given import OPENGL_TO_OPENCV, lens_numbers, number, pose
from novelview.config.sources import Dl3dvSource, OpencvCamerasSource, TransformsSource
from novelview.downloads.fetch import fetch_folder, is_collected
from novelview.downloads.registry import parse_hub
from novelview.errors import ConfigError, DataError
from novelview.files import read_json
from novelview.scenes.imports import scene
from novelview.scenes.imports.scene import ImportedFrame, ImportedScene, Lens, opened_picture

log = logging.getLogger(__name__)
MODELS = ("PERSPECTIVE", "SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE")
BENCHMARK = "hf://datasets/DL3DV/DL3DV-10K-Benchmark"
PLACES = ("nerfstudio", ".", "gaussian_splat")
DL3DV_WORLD = np.array([[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]])  # rows 0, 1 swapped, row 2 negated
FrameMaker = Callable[[Path, str, Mapping[str, Any]], ImportedFrame]  # (picture, name, entry of the list) -> frame
Candidates = Callable[[Path], list[Path]]  # path a frame names -> where its picture may be, the first that exists wins


def _with_suffixes(path: Path) -> list[Path]:  # a frame's name may lack its suffix
    return [path, *(path.with_name(path.name + suffix) for suffix in scene.SUFFIXES)]


def load_transforms(path: Path, source: TransformsSource, candidates: Candidates = _with_suffixes) -> ImportedScene:
    """Read a transforms.json, given itself or its folder; raises DataError naming file, frame and key."""
    file = _list_file(path, "transforms.json", "a")
    content = {key: value for key, value in _read(file, "correct it").items() if value is not None}

    def frame(picture: Path, name: str, entry: Mapping[str, Any]) -> ImportedFrame:
        own = {key: value for key, value in entry.items() if value is not None}  # null: as if it were not there
        where, entry = f"{file}: frame {name}", {**content, **own}
        c2w = pose(entry, "transform_matrix", where) @ OPENGL_TO_OPENCV
        return ImportedFrame(picture, name, c2w, _lens(picture, entry, where))

    return _listed_scene(file, content.pop("frames", None), source, candidates, frame)


def _list_file(path: Path, name: str, article: str) -> Path:
    file = path / name if path.is_dir() else path
    if not file.is_file():
        raise DataError(f"{file}: no such file; give path=FOLDER with {article} {name}, or the file itself")
    return file


def _read(file: Path, advice: str) -> dict[str, Any]:
    content = read_json(file, advice)
    if not isinstance(content, dict):
        raise DataError(f"{file}: key 'frames' is missing; is it a transforms.json?")
    return content


def _lens(picture: Path, entry: Mapping[str, Any], where: str) -> Lens:
    model = str(entry.get("camera_model", "OPENCV"))
    if model not in MODELS:
        raise DataError(f"{where}: camera_model {model} is not supported; convert it to one of {', '.join(MODELS)}")
    if "w" in entry or "h" in entry:
        width, height = (round(number(entry, key, where)) for key in ("w", "h"))
        if min(width, height) < 1:
            raise DataError(f"{where}: picture size {width}x{height} is not positive; correct 'w' and 'h'")
    else:
        with opened_picture(picture) as image:
            width, height = image.size
    fx = _focal(entry, "x", width, where)
    fy = _focal(entry, "y", height, where, fx)
    defaults = {"fl_x": fx, "fl_y": fy, "cx": width / 2, "cy": height / 2}
    numbers = lens_numbers({**defaults, **entry}, ("fl_x", "fl_y", "cx", "cy"), where)
    k1, k2, k3, k4, p1, p2 = (number({key: 0.0, **entry}, key, where) for key in ("k1", "k2", "k3", "k4", "p1", "p2"))
    if model == "OPENCV_FISHEYE" or entry.get("is_fisheye") is True:
        return Lens(width, height, *numbers, model="OPENCV_FISHEYE", bend=(k1, k2, k3, k4))
    return Lens(width, height, *numbers, radial=(k1, k2, k3, k4), tangential=(p1, p2))


def _focal(entry: Mapping[str, Any], axis: str, side: int, where: str, default: float | None = None) -> float:
    key, angle_key = f"fl_{axis}", f"camera_angle_{axis}"
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
    """Fetch the scenes asked for from the hub, whose data are gated, to a folder in `folder`; return it."""
    wanted, origin = dl3dv_patterns(source), parse_hub(address, "dataset")
    place = folder / f"dl3dv-{hashlib.sha256(' '.join(wanted).encode()).hexdigest()[:8]}"
    if not is_collected(place, [str(origin)]):
        fetch_folder(origin, wanted, place)
    return place


def load_dl3dv(path: Path, source: Dl3dvSource) -> dict[str, dict[str, ImportedScene]]:
    """Return split -> scenes by name: the folders train/ and test/ of `path`, or all of it as `source.split`."""
    halves = {split: path / split for split in ("train", "test") if (path / split).is_dir()}
    halves = {split: half for split, half in halves.items() if not (half / PLACES[0] / "transforms.json").is_file()}
    return {split: _landscape_scenes(part, source) for split, part in (halves or {source.split: path}).items()}


def _landscape_scenes(path: Path, source: Dl3dvSource) -> dict[str, ImportedScene]:
    """Return the scenes below `path`. Portrait ones are left out and counted in the log, as the reference does."""
    if path.is_file():
        raise DataError(f"{path}: is a file; give the folder that holds the scenes")
    names = source.hashes or sorted(item.name for item in path.iterdir() if item.is_dir()) if path.is_dir() else []
    found: dict[str, ImportedScene] = {}
    portrait = []
    for name in names:
        files = (path / name / place / "transforms.json" for place in PLACES)
        if file := next((file for file in files if file.is_file()), None):
            width, height = (number(_read(file, "fetch it again"), side, str(file)) for side in ("w", "h"))
            if width < height:
                portrait.append(name)
            else:
                found[name] = _dl3dv_scene(file, source)
        elif source.hashes:
            raise DataError(f"{path / name}: no nerfstudio/transforms.json; fetch the scene, or correct source.hashes")
    if portrait:
        log.warning("%s: left out %d portrait scenes: %s", path, len(portrait), ", ".join(portrait))
    elif not found:
        raise DataError(f"{path}: no <scene>/nerfstudio/transforms.json; give the folder that holds the scenes")
    if not found:
        raise DataError(f"{path}: has no landscape scene; choose others")
    return found


def _dl3dv_scene(file: Path, source: Dl3dvSource) -> ImportedScene:
    pictures = file.parent / source.images
    if not pictures.is_dir():
        raise DataError(f"{pictures}: no such folder; fetch it, or name another as source.images")
    given = TransformsSource(allow_missing=source.allow_missing)
    found = load_transforms(file, given, lambda path: _with_suffixes(pictures / path.name))
    for frame in found.frames:
        frame.c2w = DL3DV_WORLD @ frame.c2w
    found.flatten = scene.inner_lens
    return found


def load_opencv_cameras(path: Path, source: OpencvCamerasSource) -> ImportedScene:
    """Read an opencv_cameras.json, given itself or its folder; raises DataError naming file, frame and key."""
    file = _list_file(path, "opencv_cameras.json", "an")

    def frame(picture: Path, name: str, entry: Mapping[str, Any]) -> ImportedFrame:
        where = f"{file}: frame {name}"
        c2w = np.linalg.inv(pose(entry, "w2c", where))
        numbers = lens_numbers(entry, ("fx", "fy", "cx", "cy"), where)
        with opened_picture(picture) as image:
            return ImportedFrame(picture, name, c2w, Lens(*image.size, *numbers))

    return _listed_scene(file, read_json(file, "correct it"), source, lambda path: [path], frame)


def load_opencv_list(path: Path, source: OpencvCamerasSource) -> dict[str, ImportedScene]:
    """Return the scenes of a JSON array of relative paths to opencv_cameras.json; none when `path` is no such list."""
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


def _listed_scene(file: Path, entries: Any, source: Any, candidates: Candidates, make: FrameMaker) -> ImportedScene:
    if not isinstance(entries, list) or not entries or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"{file}: holds no list of frames; correct it")
    frames, missing = list[ImportedFrame](), list[str]()
    for row, entry in enumerate(entries):
        name = entry.get("file_path")
        if not isinstance(name, str) or not name:
            raise DataError(f"{file}: frame {row}: key 'file_path' is missing; add it")
        picture = next((path for path in candidates(file.parent / name) if path.is_file()), None)
        if picture is None:
            missing.append(name)
        else:
            frames.append(_masked(make(picture, name, entry), file, entry))
    return scene.ordered_scene(file, frames, missing, source.allow_missing, source.background)


def _masked(frame: ImportedFrame, file: Path, entry: Mapping[str, Any]) -> ImportedFrame:
    """Return a frame with its mask: nerfstudio names it, black not to count; instant-ngp lays one of what moves beside
    the picture. DataError for a named one that does not exist."""
    named, beside = entry.get("mask_path"), frame.path.with_name(f"dynamic_mask_{frame.path.stem}.png")
    if named:
        mask = file.parent / str(named)
        if not mask.is_file():
            raise DataError(
                f"{file}: frame {frame.name}: 'mask_path' {named} does not exist; restore it, or remove the key"
            )
        return replace(frame, mask=mask)
    return replace(frame, mask=beside, mask_is_of_what_moves=True) if beside.is_file() else frame
