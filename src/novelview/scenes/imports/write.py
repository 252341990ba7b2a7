"""An imported collection to chunks: flat lenses, bounded size, JPEG, held-out frames and their evaluation entries."""

import hashlib
import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image, ImageOps
from tqdm import tqdm

from novelview.cameras.camera import opaque
from novelview.errors import ConfigError, DataError
from novelview.files import sha256, write_json
from novelview.scenes.chunks import ChunkScene, ChunkWriter
from novelview.scenes.imports.held_out import choose_held_out, held_out_entries
from novelview.scenes.imports.lens import Lens, undistort
from novelview.scenes.imports.pixels import eight_bit
from novelview.scenes.imports.scene import ImportedFrame, ImportedScene
from novelview.scenes.views import save_index

logger = logging.getLogger(__name__)
SAME_SHAPE = 0.01  # relative difference of aspect ratio that resizing may have left
FARTHEST_CENTRE = 2.0  # picture sides between the picture's middle and the principal point
COUNTED = ("pictures", "held_out", "missing", "unregistered")
FARTHEST = 1e9  # units between camera and origin: beyond it float32 has no digits left


class ImportSource(Protocol):
    """The configuration keys that every imported source has."""

    held_out: int
    max_side: int
    jpeg_quality: int


def write_scene(
    scene: ImportedScene, source: ImportSource, folder: Path, dataset: str, progress: bool = True
) -> dict[str, Any]:
    """Write one collection as a data set and return what the manifest records of it.

    test/ holds every frame in order; train/ the same without the held-out ones (timestamps keep the frame numbers);
    indices/held_out.json has one entry a held-out frame; import.json lists the pictures by frame number, everything
    left out, and the depths seen where the source knows them. Raises DataError, one line, for unreadable pictures,
    sizes that do not fit, or too few pictures.
    """
    check(source, scene.background)
    try:
        held_out = choose_held_out(len(scene.frames), source.held_out)
    except DataError as error:
        raise DataError(f"{scene.where}: {error}") from None
    images, cameras, size = convert(scene, source, progress)
    key = scene_key(scene, dataset)
    whole = ChunkScene(key, "", torch.arange(len(images)), torch.from_numpy(cameras), images)
    _write_split(folder / "test", whole)
    _write_split(folder / "train", take(whole, [row for row in range(len(images)) if row not in set(held_out)]))
    centres = np.stack([frame.c2w[:3, 3] for frame in scene.frames])
    entries = held_out_entries(key, centres, held_out, getattr(source, "context_gap", 0))
    save_index(folder / "indices" / "held_out.json", entries)
    write_json(folder / "scenes.json", {key: {"set": "held_out"}})
    found = report(scene, key, held_out, size)
    write_json(folder / "import.json", found)
    seen = {"depth_range": scene.depth_range} if scene.depth_range else {}
    return {"import": {name: len(found[name]) for name in COUNTED} | seen}


def check(source: ImportSource, background: float) -> None:
    """Raise ConfigError for a quality, size or background out of range."""
    if not 1 <= source.jpeg_quality <= 100:
        raise ConfigError(f"source.jpeg_quality={source.jpeg_quality}: must lie between 1 and 100")
    if source.max_side < 0:
        raise ConfigError(f"source.max_side={source.max_side}: must be 0 (keep the size) or more")
    if not 0 <= background <= 1:
        raise ConfigError(f"source.background={background}: must lie between 0 (black) and 1 (white)")


def scene_key(scene: ImportedScene, dataset: str) -> str:
    """Return 16 hex digits of the data set's name and its pictures' names and bytes: importing again agrees."""
    total = hashlib.sha256(dataset.encode())
    for frame in scene.frames:
        # File names need not be UTF-8.
        total.update(f"\0{frame.name}\0{sha256(frame.path)}".encode("utf-8", "surrogateescape"))
    return total.hexdigest()[:16]


def convert(
    scene: ImportedScene, source: ImportSource, progress: bool
) -> tuple[list[bytes], Float[NDArray, "n 18"], tuple[int, int]]:
    """Return the JPEG bytes and camera rows of a scene's frames, and their common (width, height)."""
    flat: dict[Lens, Lens] = {}
    images: list[bytes] = []
    cameras: list[list[float]] = []
    sizes: list[tuple[int, int]] = []
    for frame in tqdm(scene.frames, unit="picture", desc="import", disable=not progress):
        picture = open_picture(frame, scene.upright)
        lens = _fit(frame, picture)
        if lens not in flat:
            flat[lens] = _flatten(scene, lens, frame)
        picture = develop(picture, lens, flat[lens], source.max_side, scene.background)
        _same_size(sizes, picture, scene.frames)
        sizes.append(picture.size)
        images.append(_encode(picture, source.jpeg_quality))
        cameras.append(_camera(frame, flat[lens]))
    return images, np.array(cameras, np.float32), sizes[0]


def _camera(frame: ImportedFrame, flat: Lens) -> list[float]:
    """Return a chunk's row of 18 numbers; raises DataError for values no camera has."""
    fx, fy, cx, cy = flat.normalised()
    w2c = np.linalg.inv(frame.c2w)[:3]
    if not max(abs(cx - 0.5), abs(cy - 0.5)) <= FARTHEST_CENTRE:
        raise DataError(f"{frame.path}: its principal point lies far outside of the picture; correct cx and cy")
    if not np.abs(w2c).max() <= FARTHEST:
        raise DataError(f"{frame.path}: its camera stands more than {FARTHEST:g} units away; correct its pose")
    return [fx, fy, cx, cy, 0.0, 0.0, *w2c.flatten().tolist()]


def open_picture(frame: ImportedFrame, upright: bool = False) -> Image.Image:
    """Return a picture as RGB or RGBA, turned by its EXIF orientation when `upright`; raises DataError naming it."""
    try:
        with Image.open(frame.path) as image:
            picture = ImageOps.exif_transpose(image) if upright else image
            return eight_bit(picture)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{frame.path}: unreadable picture ({error}); replace or remove it") from None


def _fit(frame: ImportedFrame, picture: Image.Image) -> Lens:
    """Return the frame's lens in pixels of the picture as stored, which may be a resized copy."""
    lens, (width, height) = frame.lens, picture.size
    if abs(width / height * lens.height / lens.width - 1) > SAME_SHAPE:
        raise DataError(
            f"{frame.path}: picture of {width}x{height} but its camera says {lens.width}x{lens.height}; "
            "use the pictures the cameras were made for"
        )
    return lens.scaled(width, height)


def _flatten(scene: ImportedScene, lens: Lens, frame: ImportedFrame) -> Lens:
    try:
        return scene.flatten(lens)
    except DataError as error:
        raise DataError(f"{frame.name}: {error}") from None


def develop(picture: Image.Image, lens: Lens, flat: Lens, max_side: int, background: float) -> Image.Image:
    """Undistort, shrink to `max_side` (0: never) with LANCZOS, and put transparent pixels on `background` grey.

    Transparent pictures are shrunk before they are composited (specs/lact.md), except where undistortion needs RGB.
    """
    if lens != flat:
        picture = undistort(opaque(picture, background), lens, flat)
    scale = max_side / max(picture.size) if max_side else 1.0
    if scale < 1:
        picture = picture.resize(
            (round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS
        )
    return opaque(picture, background)


def _same_size(sizes: Sequence[tuple[int, int]], picture: Image.Image, frames: Sequence[ImportedFrame]) -> None:
    if sizes and picture.size != sizes[0]:
        shapes = [f"{width}x{height}" for width, height in (sizes[0], picture.size)]
        raise DataError(
            f"{frames[len(sizes)].path}: {shapes[1]} after conversion, but {frames[0].name} is {shapes[0]}; "
            "import pictures of different sizes or orientations as separate data sets"
        )


def _encode(picture: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def take(scene: ChunkScene, rows: list[int]) -> ChunkScene:
    """Return a scene with some of its frames; timestamps keep the frame numbers."""
    images = [scene.images[row] for row in rows]
    return ChunkScene(scene.key, scene.url, scene.timestamps[rows], scene.cameras[rows], images)


def _write_split(folder: Path, scene: ChunkScene) -> None:
    with ChunkWriter(folder) as writer:
        writer.add(scene)


def report(scene: ImportedScene, key: str, held_out: list[int], size: tuple[int, int]) -> dict[str, Any]:
    """Return what import.json says of a scene, and log what was left out."""
    for reason, names in (("without a picture", scene.missing), ("without a pose", scene.unregistered)):
        if names:
            logger.warning("%s: left out %d %s: %s", scene.where, len(names), reason, ", ".join(names))
    return {
        "scene": key,
        "width": size[0],
        "height": size[1],
        "pictures": [frame.name for frame in scene.frames],
        "held_out": held_out,
        "depth_range": scene.depth_range,
        "missing": scene.missing,
        "unregistered": scene.unregistered,
    }
