"""What every importer returns, and the checks that all of them share."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image

from novelview.errors import DataError
from novelview.scenes.imports.lens import Lens, flatten

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp")
TRANSPARENT = ("RGBA", "LA", "PA")
SAME_SHAPE = 0.01  # relative difference of aspect ratio that still is the same shape, or that resizing may have left


@dataclass
class ImportedFrame:
    """One posed picture: file, name for messages and ordering, c2w [4,4] in OpenCV axes, lens in its own pixels."""

    path: Path
    name: str
    c2w: Float[NDArray, "4 4"]
    lens: Lens


@dataclass
class ImportedScene:
    """A posed collection in order."""

    where: Path
    frames: list[ImportedFrame]
    upright: bool = False  # apply the EXIF orientation; off where cameras describe the stored pixels
    background: float = 1.0  # value in [0,1] behind transparent pixels
    flatten: Callable[[Lens], Lens] = flatten  # what a lens becomes when its distortion is removed
    depth_range: list[float] | None = None  # z depths, 1st and 99th percentile, where the source knows points
    missing: list[str] = field(default_factory=list)  # files named by the source without a picture
    unregistered: list[str] = field(default_factory=list)  # photographs without a pose


def natural(name: str) -> list[tuple[int, int, str]]:
    """Return a sort key by which img2 comes before img10."""
    return [(0, int(word), word) if word.isdecimal() else (1, 0, word) for word in re.split(r"(\d+)", name)]


def ordered_scene(
    where: Path, frames: Sequence[ImportedFrame], missing: list[str], allow_missing: bool, background: float = 1.0
) -> ImportedScene:
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
    return ImportedScene(where, frames, background=background, missing=sorted(missing, key=natural))


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


@contextmanager
def opened_picture(path: Path, what: str = "picture") -> Iterator[Image.Image]:
    """Yield an open picture; what cannot be read, in the body too, becomes a DataError that names it."""
    try:
        with Image.open(path) as image:
            yield image
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: unreadable {what} ({error}); replace or remove it") from None
