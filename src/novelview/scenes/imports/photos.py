"""A folder of plain photographs: poses and intrinsics by pycolmap, in a process of its own."""

import logging
import tempfile
from pathlib import Path

import numpy as np
from PIL import ImageOps

from novelview.config.sources import PhotosSource
from novelview.errors import DataError
from novelview.files import read_json
from novelview.scenes.imports.colmap import read_model
from novelview.scenes.imports.reconstruct import QUALITY, run_apart
from novelview.scenes.imports.scene import (
    SAME_SHAPE,
    SUFFIXES,
    ImportedFrame,
    ImportedScene,
    eight_bit,
    natural,
    opened_picture,
)

logger = logging.getLogger(__name__)
ORIENTATION = 0x0112
FEWEST = 3
ADVICE = "take more overlapping, sharp photographs of a scene that stands still"


def load(path: Path, source: PhotosSource, log: Path, threads: int = 0) -> ImportedScene:
    """Reconstruct the photographs in `path` in natural name order; pycolmap's output goes to `log`.

    Raises DataError for too few or unreadable photographs, or too few registered. A single thread gives the same poses.
    """
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
    registered = {copies[entry.name]: entry for entry in poses}
    if len(registered) < max(FEWEST, source.min_registered * len(photographs)):
        raise DataError(
            f"{path}: {len(registered)} of {len(photographs)} photographs could be registered, source.min_registered="
            f"{source.min_registered} asks for {source.min_registered:.0%}; {ADVICE}, or lower it; log: {log}"
        )
    frames = [
        ImportedFrame(photo, photo.name, np.linalg.inv(entry.w2c), lenses[entry.camera])
        for photo, entry in sorted(registered.items(), key=lambda item: natural(item[0].name))
    ]
    unregistered = [photo.name for photo in photographs if photo not in registered]
    return ImportedScene(path, frames, upright=True, depth_range=depths, unregistered=unregistered)


def list_photographs(path: Path) -> list[Path]:
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; give the photographs' folder as path=FOLDER")
    found = [item for item in path.iterdir() if item.suffix.lower() in SUFFIXES and not item.name.startswith(".")]
    if len(found) < FEWEST:
        counted = f"{len(found)} photographs ({', '.join(SUFFIXES)}) here, at least {FEWEST} are needed"
        raise DataError(f"{path}: {counted}; correct the path or convert the photographs")
    return sorted(found, key=lambda item: natural(item.name))


def _upright_copies(photographs: list[Path], folder: Path) -> tuple[dict[str, Path], list[tuple[int, int]]]:
    """Lay the photographs out for pycolmap as links or upright copies; return them by their names there, and sizes."""
    folder.mkdir()
    copies: dict[str, Path] = {}
    sizes: list[tuple[int, int]] = []
    for number, photo in enumerate(photographs):
        with opened_picture(photo, "photograph") as image:
            turned = image.getexif().get(ORIENTATION, 1) != 1
            linked = not turned and image.format in ("JPEG", "PNG") and not image.mode.startswith("I")
            image.load()
            name = f"{number:06d}{photo.suffix.lower() if linked else '.jpg'}"
            upright = image if linked else ImageOps.exif_transpose(image)
            if linked:
                (folder / name).symlink_to(photo.absolute())
            else:
                # The EXIF block keeps the focal length, pycolmap's first guess.
                eight_bit(upright).convert("RGB").save(folder / name, quality=97, exif=upright.getexif())
        copies[name] = photo
        sizes.append(upright.size)
    return copies, sizes


def _refuse_mixed(photographs: list[Path], sizes: list[tuple[int, int]], single_camera: bool) -> None:
    """Raise DataError, before minutes of reconstruction, for photographs that cannot become one data set."""
    width, height = sizes[0]
    for photo, (across, down) in zip(photographs, sizes, strict=True):
        if abs(across / down * height / width - 1) > SAME_SHAPE:
            advice = "import photographs of different shapes or orientations as separate data sets"
        elif (across, down) != (width, height) and single_camera:
            advice = "set source.single_camera=false if they were taken at different resolutions"
        else:
            continue
        raise DataError(f"{photo}: {across}x{down}, but {photographs[0].name} is {width}x{height}; {advice}")
