"""DL3DV scenes as published: `<scene>/nerfstudio/transforms.json` with its resized pictures (specs/lact.md section 8).

Cameras are OpenCV lenses with k1, k2, p1, p2 for the pictures at full size; pictures at a quarter of it lie in
`images_4`. Pictures are undistorted to the lens whose view holds only covered pixels (`inner_lens`), and poses turn
into OpenCV axes the way the reference's converter does.
"""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from novelview.config.sources import Dl3dvSource, TransformsSource
from novelview.downloads.fetch import fetch_folder, is_collected
from novelview.downloads.registry import parse_hub
from novelview.errors import ConfigError, DataError
from novelview.files import read_json
from novelview.scenes.imports import transforms
from novelview.scenes.imports.lens import inner_lens
from novelview.scenes.imports.scene import ImportedFrame, ImportedScene, number

log = logging.getLogger(__name__)

BENCHMARK = "hf://datasets/DL3DV/DL3DV-10K-Benchmark"
PLACES = ("nerfstudio", ".", "gaussian_splat")
WORLD = np.array([[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]])  # rows 0 and 1 swapped, row 2 negated


def patterns(source: Dl3dvSource) -> list[str]:
    """Return which files of the benchmark's repository to fetch; raises ConfigError unless scenes are named."""
    if source.subset == "full":
        scenes: Sequence[str] = ["*"]
    elif source.hashes:
        scenes = source.hashes
    else:
        raise ConfigError("source.hashes is empty: name scenes as source.hashes=[...], or take all: source.subset=full")
    return [f"{scene}/nerfstudio/{name}" for scene in scenes for name in ("transforms.json", f"{source.images}/*")]


def fetch(address: str, source: Dl3dvSource, folder: Path) -> Path:
    """Fetch the scenes asked for from the hub to a folder in `folder`, and return it; what is there is kept.

    The repository's files are listed through the hub, never from the pickled list it also holds. The data are gated:
    their licence is the data set's own.
    """
    wanted = patterns(source)
    place = folder / f"dl3dv-{hashlib.sha256(' '.join(wanted).encode()).hexdigest()[:8]}"
    origin = parse_hub(address, "dataset")
    if not is_collected(place, [str(origin)]):
        fetch_folder(origin, wanted, place)
    return place


def groups(path: Path, source: Dl3dvSource) -> dict[str, dict[str, ImportedScene]]:
    """Return split -> scenes by name: the folders train/ and test/ of `path`, or all of it as `source.split`."""
    halves = [split for split in ("train", "test") if (path / split).is_dir() and not _has(path / split / PLACES[0])]
    return {split: load(path / split, source) for split in halves} or {source.split: load(path, source)}


def load(path: Path, source: Dl3dvSource) -> dict[str, ImportedScene]:
    """Return the landscape scenes below `path` by name; raises DataError, naming the file, for what cannot be read.

    Portrait scenes are left out and counted in the log, as the reference does.
    """
    files = scene_files(path, source.hashes)
    found: dict[str, ImportedScene] = {}
    portrait = []
    for name, file in files.items():
        content = read_json(file, "fetch it again")
        if not isinstance(content, dict):
            raise DataError(f"{file}: key 'frames' is missing; is it a transforms.json?")
        if number(content, "w", str(file)) < number(content, "h", str(file)):
            portrait.append(name)
        else:
            found[name] = _scene(file, source)
    if portrait:
        log.warning("%s: left out %d portrait scenes: %s", path, len(portrait), ", ".join(portrait))
    if not found:
        raise DataError(f"{path}: has no landscape scene; choose others")
    return found


def scene_files(path: Path, hashes: Sequence[str] = ()) -> dict[str, Path]:
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


def _scene(file: Path, source: Dl3dvSource) -> ImportedScene:
    pictures = file.parent / source.images
    if not pictures.is_dir():
        raise DataError(f"{pictures}: no such folder; fetch it, or name another as source.images")
    given = TransformsSource(allow_missing=source.allow_missing)
    whole = transforms.load(file, given, lambda folder, name: _picture(folder / source.images, name))
    frames = [ImportedFrame(item.path, item.name, WORLD @ item.c2w, item.lens) for item in whole.frames]
    return ImportedScene(file, frames, missing=whole.missing, flatten=inner_lens)


def _picture(folder: Path, name: str) -> Path | None:
    return transforms.find_picture(folder, Path(name).name)
