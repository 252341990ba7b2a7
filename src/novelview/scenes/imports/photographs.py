"""Plain photographs or a video: cameras by pycolmap, or none at all for models that need none."""

import logging
import tempfile
from pathlib import Path

import numpy as np

from novelview.config.sources import PhotosSource, UnposedSource
from novelview.errors import DataError
from novelview.files import read_json
from novelview.scenes.imports import scene
from novelview.scenes.imports.reconstruct import QUALITY, run_apart
from novelview.scenes.imports.scene import ImportedFrame, ImportedScene, Lens
from novelview.scenes.imports.video import VIDEOS
from novelview.scenes.imports.write import EIGHTH, choose_held_out

logger = logging.getLogger(__name__)
FEWEST = 3
ADVICE = "take more overlapping, sharp photographs of a scene that stands still"
RAW = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf")
SFM_SIDE = 800  # pixels; `decoded` leaves three times as many, and pycolmap looks for features at 1600


def load_photographs(path: Path, source: PhotosSource, log: Path, threads: int = 0) -> ImportedScene:
    """Reconstruct the photographs in `path`, output to `log`; DataError for few, unreadable or unregistered."""
    from novelview.scenes.imports.colmap import read_model, with_masks  # here: a scene without poses needs no pycolmap

    photographs, left_out = list_photographs(path)
    _check_held_out(path, len(photographs), source.held_out)
    with tempfile.TemporaryDirectory(prefix="novelview-photos-") as work:
        copies, sizes = _upright_copies(photographs, Path(work) / "images")
        job = {key: getattr(source, key) for key in ("camera_model", "single_camera", "seed", "matcher")}
        job |= {"images": str(Path(work) / "images"), "names": list(copies)}
        if source.single_camera:  # a lens a size: pictures of other sizes cannot share one
            own = dict.fromkeys(sizes.values())
            job["cameras"] = [{"names": [name for name, size in sizes.items() if size == one]} for one in own]
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
    frames = with_masks([ImportedFrame(photo, photo.name, *registered[photo]) for photo in found], path / "masks")
    unregistered = [photo.name for photo in photographs if photo not in registered]
    return ImportedScene(path, frames, upright=True, depth_range=depths, unregistered=unregistered, left_out=left_out)


def load_unposed(path: Path, source: UnposedSource) -> ImportedScene:
    """Return the photographs in `path` without cameras: identity poses and a lens as wide as the picture's longer side,
    which no system may read; DataError for few or unreadable ones."""
    photographs, left_out = list_photographs(path)
    _check_held_out(path, len(photographs), source.held_out)
    frames = []
    for photo in photographs:
        with scene.opened_picture(photo, "photograph") as image:
            width, height = scene.stored_size(image, True)
        side = max(width, height)
        frames.append(
            ImportedFrame(photo, photo.name, np.eye(4), Lens(width, height, side, side, width / 2, height / 2))
        )
    return ImportedScene(path, frames, upright=True, left_out=left_out, posed=False)


def _check_held_out(path: Path, photographs: int, asked: int) -> None:
    """Raise DataError before minutes of reconstruction."""
    try:
        choose_held_out(photographs, asked or max(1, photographs // EIGHTH))
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def list_photographs(path: Path) -> tuple[list[Path], dict[str, str]]:
    """Return the photographs of a folder in natural order, and why its other files are none; DataError for too few."""
    if not path.is_dir():
        what = "is a file" if path.exists() else "no such folder"
        raise DataError(f"{path}: {what}; give the photographs' folder, or a video, as path=")
    found, left_out = list[Path](), dict[str, str]()
    for item in sorted(path.iterdir(), key=lambda item: scene.natural(item.name)):
        suffix = item.suffix.lower()
        if item.name.startswith("."):
            continue
        if item.is_dir():
            if item.name != "masks" and any(one.suffix.lower() in scene.SUFFIXES for one in item.iterdir()):
                left_out[item.name] = "a folder; give it as path= to read its pictures"
        elif suffix in scene.SUFFIXES and not _undecodable(item):
            found.append(item)
        elif suffix in scene.SUFFIXES:
            left_out[item.name] = "HEIC; install pillow-heif to read it"
        elif suffix in RAW:
            left_out[item.name] = "camera raw; develop it to JPEG"
        else:
            left_out[item.name] = "a video; give it alone as path=" if suffix in VIDEOS else f"'{suffix}' is no picture"
    if len(found) < FEWEST:
        others = f", left out {'; '.join(f'{name}: {why}' for name, why in left_out.items())}" if left_out else ""
        counted = f"{len(found)} photographs ({', '.join(scene.SUFFIXES)}) here, at least {FEWEST} are needed{others}"
        raise DataError(f"{path}: {counted}; correct the path or convert the photographs")
    return found, left_out


def _undecodable(photo: Path) -> bool:
    """Whether a file is HEIC, whatever its name says, and nothing installed reads that."""
    with open(photo, "rb") as stream:
        head = stream.read(12)
    return head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"hevc") and not scene.read_heif()


def _upright_copies(photographs: list[Path], folder: Path) -> tuple[dict[str, Path], dict[str, tuple[int, int]]]:
    """Lay the photographs out for pycolmap as links or upright copies; return them, and sizes, by their names there."""
    folder.mkdir()
    copies: dict[str, Path] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for number, photo in enumerate(photographs):
        with scene.opened_picture(photo, "photograph") as image:
            turned = image.getexif().get(scene.ORIENTATION, 1) != 1
            large = image.width * image.height > scene.LARGE  # pycolmap shrinks a picture after reading all of it
            linked = not (turned or large) and image.format in ("JPEG", "PNG") and not image.mode.startswith("I")
            name = f"{number:06d}{'.png' if linked and image.format == 'PNG' else '.jpg'}"
            size = scene.stored_size(image, True)
            if linked:
                image.load()
                (folder / name).symlink_to(photo.absolute())
            else:
                # The EXIF block keeps the focal length, pycolmap's first guess.
                exif = image.getexif()
                picture, factor = scene.decoded(image, True, SFM_SIDE if large else 0)
                exif.pop(scene.ORIENTATION, None)
                picture.convert("RGB").save(folder / name, quality=97, exif=exif)
                size = size if factor == 1 else picture.size
        copies[name], sizes[name] = photo, size
    return copies, sizes
