"""What every importer returns: pictures in order with poses and lenses; opening them, and removing their distortion.

Pixel coordinates put the centre of the first pixel at (0.5, 0.5), as COLMAP, nerfstudio and RealEstate10K do."""

import functools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch.nn.functional import grid_sample

from novelview.errors import DataError, raise_exhausted

SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".webp", ".bmp")
SUFFIXES += (".gif", ".avif", ".heic", ".heif")
ORIENTATION = 0x0112  # the EXIF tag
LARGE = 178_956_970  # pixels; beyond them Pillow speaks of a decompression bomb
LARGEST = 2**29  # pixels that are read at all: two thousand million bytes once decoded
SPARSEST = 0.005  # bytes a pixel of a file: no large photograph is packed as tightly
BAND = 512  # rows that are undistorted at a time
DECODED = 3  # times the wanted side at which a picture may be read; less would show after the final filter
TRANSPARENT = ("RGBA", "LA", "PA")
SAME_SHAPE = 0.01  # relative difference of aspect ratio that still is the same shape, or that resizing may have left
WIDEST = math.tan(math.radians(60))  # a flat picture wider than 120 degrees is mostly smeared border
ZOOMS = (0.25, 8.0)
STEPS = 40
DIRECTIONS = np.stack([np.cos(np.arange(16) * np.pi / 8), np.sin(np.arange(16) * np.pi / 8)], -1)


@dataclass(frozen=True)
class Lens:
    """Intrinsics in pixels of a width x height picture, with distortion."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    radial: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)  # OpenCV's k1..k4
    tangential: tuple[float, float] = (0.0, 0.0)  # and p1, p2; no model of COLMAP has all
    model: str = ""  # any other, by COLMAP's name
    bend: tuple[float, ...] = ()  # its parameters after the principal point

    @property
    def distorted(self) -> bool:
        return bool(self.model) or any(self.radial) or any(self.tangential)

    def normalised(self) -> tuple[float, float, float, float]:
        """Return fx/W, fy/H, cx/W, cy/H."""
        return self.fx / self.width, self.fy / self.height, self.cx / self.width, self.cy / self.height

    def resized(
        self, across: float, down: float, size: tuple[int, int], corner: tuple[float, float] = (0, 0)
    ) -> "Lens":
        """Return the lens after the picture was scaled and then cut to `size`, (width, height), from `corner` on."""
        numbers = self.fx * across, self.fy * down, self.cx * across - corner[0], self.cy * down - corner[1]
        return Lens(*size, *numbers, self.radial, self.tangential, self.model, self.bend)

    def project(self, rays: Float[NDArray, "... 2"]) -> Float[NDArray, "... 2"]:
        """Return the distorted pixel of each undistorted ray (x/z, y/z); NaN where the model has none."""
        return self._bent(rays) * (self.fx, self.fy) + (self.cx, self.cy)

    def unproject(self, pixels: Float[NDArray, "... 2"]) -> Float[NDArray, "... 2"]:
        """Return the undistorted ray (x/z, y/z) of each distorted pixel, by fixed-point iteration."""
        rays = (pixels - (self.cx, self.cy)) / (self.fx, self.fy)
        with np.errstate(over="ignore", invalid="ignore"):  # a lens that folds its picture over diverges
            for _ in range(STEPS):
                rays = rays - (self.project(rays) - pixels) / (self.fx, self.fy)
        return rays

    def unfolded(self, radius: float) -> bool:
        """Whether the distortion grows all the way out to `radius`; past its turning point pictures fold over."""
        rays = np.linspace(0, radius, 200)[:, None, None] * DIRECTIONS
        return bool((np.diff(np.linalg.norm(self._bent(rays), axis=-1), axis=0) > 0).all())

    def _bent(self, rays: Float[NDArray, "... 2"]) -> Float[NDArray, "... 2"]:
        if self.model:
            import pycolmap  # here: most collections have no such lens

            camera = pycolmap.Camera.create_from_model_name(1, self.model, 1.0, 0, 0)
            camera.params = [*camera.params[: len(camera.params) - len(self.bend)], *self.bend]
            points = np.concatenate([rays, np.ones_like(rays[..., :1])], -1)
            return np.asarray(camera.img_from_cam(points.reshape(-1, 3))).reshape(rays.shape)
        x, y = rays[..., 0], rays[..., 1]
        square, (p1, p2), (k1, k2, k3, k4) = x * x + y * y, self.tangential, self.radial
        factor = 1 + square * (k1 + square * (k2 + square * (k3 + square * k4)))
        across = x * factor + 2 * p1 * x * y + p2 * (square + 2 * x * x)
        return np.stack([across, y * factor + p1 * (square + 2 * y * y) + 2 * p2 * x * y], axis=-1)


def flatten(lens: Lens) -> Lens:
    """Return the flat lens with the widest view the distorted picture covers; DataError beyond zooms 0.25 to 8."""
    if not lens.distorted:
        return lens
    low, high = ZOOMS
    if not _covered(lens, high):
        raise _implausible(lens)
    for _ in range(STEPS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if _covered(lens, middle) else (middle, high)
    return _zoomed(lens, high)


def inner_lens(lens: Lens) -> Lens:
    """Return the flat lens of the largest upright covered rectangle, OpenCV's at alpha 0; DataError for folds."""
    if not lens.distorted:
        return lens
    border = _border(lens, 65)
    rays = lens.unproject(border)
    left, right = rays[0, :, 0].max(), rays[1, :, 0].min()
    top, bottom = rays[2, :, 1].max(), rays[3, :, 1].min()
    with np.errstate(over="ignore", invalid="ignore"):
        exact = np.abs(lens.project(rays) - border).max() < 1e-2
    inside = left < 0 < right and top < 0 < bottom
    if not (exact and inside and lens.unfolded(float(np.linalg.norm(rays, axis=-1).max()))):
        raise _implausible(lens)
    fx, fy = float(lens.width / (right - left)), float(lens.height / (bottom - top))
    return Lens(lens.width, lens.height, fx, fy, float(-fx * left), float(-fy * top))


def _implausible(lens: Lens) -> DataError:
    numbers = lens.bend or lens.radial + lens.tangential
    return DataError(f"distortion {numbers} cannot be removed; check the lens parameters")


def _zoomed(lens: Lens, zoom: float) -> Lens:
    return Lens(lens.width, lens.height, lens.fx * zoom, lens.fy * zoom, lens.cx, lens.cy)


def _border(lens: Lens, points: int) -> Float[NDArray, "4 points 2"]:
    along, zero = np.linspace(0, 1, points), np.zeros(points)
    sides = [[zero, along], [zero + 1, along], [along, zero], [along, zero + 1]]
    return np.stack([np.stack(side, -1) for side in sides]) * (lens.width, lens.height)


def _covered(lens: Lens, zoom: float) -> bool:
    """Whether the border of the zoomed flat picture lies inside the distorted one, short of any fold."""
    flat = _zoomed(lens, zoom)
    rays = (_border(lens, 129) - (flat.cx, flat.cy)) / (flat.fx, flat.fy)
    reach = float(np.linalg.norm(rays, axis=-1).max())
    if reach > WIDEST or not lens.unfolded(reach):
        return False
    pixels = lens.project(rays)
    return bool((pixels >= 0).all() and (pixels <= (lens.width, lens.height)).all())


def undistort(image: Image.Image, lens: Lens, flat: Lens) -> Image.Image:
    source = torch.from_numpy(np.asarray(image, np.float32)).permute(2, 0, 1)[None]
    found = np.empty((flat.height, flat.width, 3), np.uint8)
    for top in range(0, flat.height, BAND):  # the coordinates of a whole photograph would take gigabytes
        below = min(top + BAND, flat.height)
        columns, rows = np.meshgrid(np.arange(flat.width) + 0.5, np.arange(top, below) + 0.5)
        rays = np.stack([(columns - flat.cx) / flat.fx, (rows - flat.cy) / flat.fy], -1)
        grid = 2 * lens.project(rays) / (lens.width, lens.height) - 1
        target = torch.from_numpy(grid.astype(np.float32))[None]
        sampled = grid_sample(source, target, mode="bicubic", padding_mode="border", align_corners=False)
        found[top:below] = sampled[0].round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    return Image.fromarray(found)


@dataclass
class ImportedFrame:
    """One posed picture: file, name for messages and ordering, c2w [4,4] in OpenCV axes, lens in its own pixels."""

    path: Path
    name: str
    c2w: Float[NDArray, "4 4"]
    lens: Lens
    mask: Path | None = None  # a picture of the same shape; where it is dark nothing counts, or where it is bright
    mask_is_of_what_moves: bool = False

    def fitted(self, width: int, height: int) -> Lens:
        """Return the lens in pixels of the picture as stored, perhaps a resized copy; DataError for another shape."""
        lens = self.lens
        across, down = width / lens.width, height / lens.height
        if abs(width / height * lens.height / lens.width - 1) > SAME_SHAPE:
            given = f"picture of {width}x{height} but its camera says {lens.width}x{lens.height}"
            raise DataError(f"{self.path}: {given}; use the pictures the cameras were made for")
        return lens.resized(across, down, (width, height))


@dataclass
class ImportedScene:
    where: Path
    frames: list[ImportedFrame]
    upright: bool = False  # apply the EXIF orientation; off where cameras describe the stored pixels
    background: float = 1.0  # value in [0,1] behind transparent pixels
    flatten: Callable[[Lens], Lens] = flatten  # what a lens becomes when its distortion is removed
    depth_range: list[float] | None = None  # z depths, 1st and 99th percentile, where the source knows points
    missing: list[str] = field(default_factory=list)  # files named by the source without a picture
    unregistered: list[str] = field(default_factory=list)  # photographs without a pose
    left_out: dict[str, str] = field(default_factory=dict)  # files beside them that are no photograph -> why
    posed: bool = True  # False: nobody knows the cameras


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
    """Return RGB, or RGBA for transparency, 16-bit grey scaled (PIL clips it); ValueError for 32-bit pixels."""
    if picture.mode.startswith("I;16"):
        grey = np.asarray(picture).astype(np.float32) / 257
        return Image.fromarray(grey.round().astype(np.uint8)).convert("RGB")
    if picture.mode in ("I", "F"):
        raise ValueError("its pixels have 32 bits, of unknown range; convert it to 8 bits")
    transparent = picture.mode in TRANSPARENT or "transparency" in picture.info
    return picture.convert("RGBA" if transparent else "RGB")


def stored_size(image: Image.Image, upright: bool) -> tuple[int, int]:
    """Return (width, height), those of the turned picture where the EXIF orientation is to be applied."""
    turned = upright and image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
    return (image.height, image.width) if turned else image.size


def read_picture(path: Path, upright: bool, side: int) -> tuple[Image.Image, int]:
    """As `decoded`, of a file; a function, so that nothing holds the whole picture after it."""
    with opened_picture(path) as image:
        return decoded(image, upright, side)


def decoded(image: Image.Image, upright: bool, side: int) -> tuple[Image.Image, int]:
    """Return an open picture in 8 bits, reduced by a whole number, and that number: its longer side stays at least
    DECODED times `side` (0: as it is). A JPEG is decoded at the smaller size, which spares time and memory."""
    factor = max(1, max(image.size) // (DECODED * side)) if side else 1
    wide, high = image.size
    fits = (scale for scale in (8, 4, 2) if scale <= factor and wide % scale == 0 == high % scale)
    if image.format == "JPEG" and (scale := next(fits, 1)) > 1:
        image.draft(image.mode, (wide // scale, high // scale))
    turned = upright and image.getexif().get(ORIENTATION, 1) != 1
    picture = ImageOps.exif_transpose(image) if turned else image  # which copies
    rest = factor // (wide // image.width)
    if rest > 1:
        whole = picture if picture.mode in ("RGB", "RGBA", "L", "LA", "CMYK", "YCbCr") else eight_bit(picture)
        picture = whole.reduce(rest, (0, 0, whole.width // rest * rest, whole.height // rest * rest))
    return eight_bit(picture), rest * (wide // image.width)


def read_mask(frame: ImportedFrame, shape: tuple[int, int], size: tuple[int, int]) -> Image.Image | None:
    """Return a frame's mask as an RGB picture of `size`, white where pixels count; None without; DataError for one of
    another shape than the picture's `shape`."""
    if frame.mask is None:
        return None
    with opened_picture(frame.mask, "mask") as image:
        mask = image.convert("L")
    if abs(mask.width / mask.height * shape[1] / shape[0] - 1) > SAME_SHAPE:
        given = f"{mask.width}x{mask.height}, and its picture {frame.name} {shape[0]}x{shape[1]}"
        raise DataError(f"{frame.mask}: a mask of {given}; make it anew, or remove it")
    counts = (np.asarray(mask.resize(size, Image.Resampling.NEAREST)) > 0) != frame.mask_is_of_what_moves
    return Image.fromarray(counts.astype(np.uint8) * 255).convert("RGB")


@functools.cache
def read_heif() -> bool:
    """Let Pillow read HEIC and HEIF; return whether it can, which needs the package pillow-heif."""
    try:
        import pillow_heif
    except ModuleNotFoundError:
        return False
    pillow_heif.register_heif_opener()
    return True


@contextmanager
def opened_picture(path: Path, what: str = "picture") -> Iterator[Image.Image]:
    """Yield an open picture; what cannot be read, in the body too, becomes a DataError that names it.

    A large photograph is none of Pillow's decompression bombs; a small file that unpacks to as many pixels is."""
    read_heif()
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(path) as image:
            (width, height), pixels = image.size, image.width * image.height
            sparse = image.mode == "1" or path.stat().st_size < SPARSEST * pixels
            if pixels > LARGEST or (pixels > LARGE and sparse):
                raise ValueError(f"{width}x{height} pixels in {path.stat().st_size} bytes are no photograph")
            yield image
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise_exhausted(error, path)
        raise DataError(f"{path}: unreadable {what} ({error}); replace or remove it") from None
    finally:
        Image.MAX_IMAGE_PIXELS = limit
