"""Imported collections to chunks: flat lenses, bounded size, JPEG, held-out frames and their evaluation entries."""

import hashlib
import io
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image, ImageOps
from tqdm import tqdm

from novelview.cameras.camera import opaque
from novelview.config.sources import PicturesSource, check_source
from novelview.errors import DataError
from novelview.files import sha256, write_json
from novelview.scenes.chunks import MOST_INTRINSIC, ChunkScene, ChunkWriter
from novelview.scenes.imports.scene import ImportedFrame, ImportedScene, Lens, eight_bit, opened_picture, undistort
from novelview.scenes.views import EvalEntry, save_index

logger = logging.getLogger(__name__)
HELD_OUT = "held_out"
SPLITS = {"train": ("train",), "test": ("test",), HELD_OUT: ("train", "test")}
COUNTED = ("pictures", "held_out", "missing", "unregistered")
FARTHEST = 1e9  # units between camera and origin: beyond it float32 has no digits left


def write_scene(
    scene: ImportedScene, source: PicturesSource, folder: Path, dataset: str, progress: bool
) -> dict[str, Any]:
    """Write one collection as a data set and return what the manifest records of it.

    test/ holds every frame, train/ those not held out (timestamps keep the numbers), indices/held_out.json an entry a
    held-out frame, import.json the pictures by frame number and what was left out. Raises ConfigError for values out of
    range, DataError for unreadable or too few pictures or sizes that do not fit."""
    ((_, report),) = _write([(HELD_OUT, "", scene)], source, folder, dataset, progress)
    write_json(folder / "import.json", report)
    seen = {"depth_range": scene.depth_range} if scene.depth_range else {}
    return {"import": {name: len(report[name]) for name in COUNTED} | seen}


def write_collection(
    groups: dict[str, dict[str, ImportedScene]], source: PicturesSource, folder: Path, dataset: str, progress: bool
) -> dict[str, Any]:
    """Write scenes by set and name, keyed by `<name>-<16 hex digits>`; `held_out` ones as by `write_scene`."""
    items = [(group, f"{name[:64]}-", scene) for group, scenes in groups.items() for name, scene in scenes.items()]
    reports = [{"set": group, **report} for group, report in _write(items, source, folder, dataset, progress)]
    write_json(folder / "import.json", {"scenes": reports})
    return {"import": {"scenes": len(reports), "pictures": sum(len(report["pictures"]) for report in reports)}}


def _write(
    items: Sequence[tuple[str, str, ImportedScene]], source: PicturesSource, folder: Path, dataset: str, progress: bool
) -> list[tuple[str, dict[str, Any]]]:
    check_source(source)
    reports: list[tuple[str, dict[str, Any]]] = []
    entries: list[EvalEntry] = []
    with ExitStack() as stack:
        splits = dict.fromkeys(split for group, *_ in items for split in SPLITS[group])
        writers = {split: stack.enter_context(ChunkWriter(folder / split)) for split in splits}
        for group, prefix, scene in items:
            try:
                held_out = choose_held_out(len(scene.frames), source.held_out) if group == HELD_OUT else []
            except DataError as error:
                raise DataError(f"{scene.where}: {error}") from None
            whole, size = _converted(scene, source, dataset, progress, prefix)
            for split in SPLITS[group]:
                rows = [row for row in range(len(whole.images)) if split == "test" or row not in held_out]
                images = [whole.images[row] for row in rows]
                writers[split].add(ChunkScene(whole.key, "", whole.timestamps[rows], whole.cameras[rows], images))
            centres = np.stack([frame.c2w[:3, 3] for frame in scene.frames])
            entries += held_out_entries(whole.key, centres, held_out, getattr(source, "context_gap", 0))
            reports.append((group, _report(scene, whole.key, held_out, size)))
    if entries:
        save_index(folder / "indices" / "held_out.json", entries)
    sets = {report["scene"]: {"set": group} for group, report in reports if group != "train"}
    write_json(folder / "scenes.json", sets)
    return reports


def choose_held_out(frames: int, held_out: int) -> list[int]:
    """Return evenly spaced frame numbers, never first or last; DataError when too few remain for training."""
    if frames < 3:
        raise DataError(f"{frames} usable picture(s): at least 3 are needed, 2 to train on and 1 for evaluation")
    if held_out < 1 or frames - held_out < max(2, held_out):
        raise DataError(
            f"{frames} pictures with source.held_out={held_out}: keep at least 1 for evaluation and at least as many, "
            f"and 2, for training; set source.held_out to 1..{max(1, min(frames // 2, frames - 2))}"
        )
    return [int(number) for number in np.linspace(0, frames - 1, held_out + 2).round()[1:-1]]


def held_out_entries(
    scene: str, centres: Float[NDArray, "n 3"], held_out: Sequence[int], context_gap: int = 0
) -> list[EvalEntry]:
    """Return an entry a held-out frame: it as target, around it the nearest cameras, or those `context_gap` apart."""
    training = [frame for frame in range(len(centres)) if frame not in set(held_out)]
    entries = []
    for target in held_out:
        distance = np.linalg.norm(centres - centres[target], axis=1)
        if context_gap:
            distance = np.abs(np.abs(np.arange(len(centres)) - target) - context_gap / 2)
        before = min((frame for frame in training if frame < target), key=distance.__getitem__)
        after = min((frame for frame in training if frame > target), key=distance.__getitem__)
        entries.append(EvalEntry(scene, (before, after), (target,), None))
    return entries


def _converted(
    scene: ImportedScene, source: PicturesSource, dataset: str, progress: bool, prefix: str
) -> tuple[ChunkScene, tuple[int, int]]:
    """Return a scene, its key a digest of names and bytes, and the common (width, height) of its pictures."""
    flat: dict[Lens, Lens] = {}
    images: list[bytes] = []
    cameras: list[list[float]] = []
    size = (0, 0)
    total = hashlib.sha256(dataset.encode())
    for frame in tqdm(scene.frames, unit="picture", desc="import", disable=not progress):
        with opened_picture(frame.path) as image:
            picture = eight_bit(ImageOps.exif_transpose(image) if scene.upright else image)
        lens = frame.fitted(*picture.size)
        if lens not in flat:
            try:
                flat[lens] = scene.flatten(lens)
            except DataError as error:
                raise DataError(f"{frame.name}: {error}") from None
        picture = _develop(picture, lens, flat[lens], source.max_side, scene.background)
        if images and picture.size != size:
            raise DataError(
                f"{frame.path}: {picture.width}x{picture.height} after conversion, but {scene.frames[0].name} is "
                f"{size[0]}x{size[1]}; import pictures of different sizes or orientations as separate data sets"
            )
        size = picture.size
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=source.jpeg_quality, subsampling=0)
        images.append(buffer.getvalue())
        cameras.append(_camera(frame, flat[lens]))
        # File names need not be UTF-8.
        total.update(f"\0{frame.name}\0{sha256(frame.path)}".encode("utf-8", "surrogateescape"))
    key, rows = prefix + total.hexdigest()[:16], torch.from_numpy(np.array(cameras, np.float32))
    return ChunkScene(key, "", torch.arange(len(images)), rows, images), size


def _camera(frame: ImportedFrame, flat: Lens) -> list[float]:
    fx, fy, cx, cy = flat.normalised()
    w2c = np.linalg.inv(frame.c2w)[:3]
    if not max(abs(cx - 0.5), abs(cy - 0.5)) < 0.5:
        raise DataError(f"{frame.path}: its principal point lies outside of the picture; correct cx and cy, or w and h")
    if not 1 / MOST_INTRINSIC < min(fx, fy) <= max(fx, fy) < MOST_INTRINSIC:
        raise DataError(
            f"{frame.path}: focal lengths of {fx:.3g} widths and {fy:.3g} heights; correct them, or w and h"
        )
    if not np.abs(w2c).max() <= FARTHEST:
        raise DataError(f"{frame.path}: its camera stands more than {FARTHEST:g} units away; correct its pose")
    return [fx, fy, cx, cy, 0.0, 0.0, *w2c.flatten().tolist()]


def _develop(picture: Image.Image, lens: Lens, flat: Lens, max_side: int, background: float) -> Image.Image:
    # Transparent pictures are shrunk before they are composited (specs/lact.md), except where undistortion needs RGB.
    if lens != flat:
        picture = undistort(opaque(picture, background), lens, flat)
    scale = max_side / max(picture.size) if max_side else 1.0
    if scale < 1:
        width, height = (round(side * scale) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    return opaque(picture, background)


def _report(scene: ImportedScene, key: str, held_out: list[int], size: tuple[int, int]) -> dict[str, Any]:
    for reason, names in (("without a picture", scene.missing), ("without a pose", scene.unregistered)):
        if names:
            logger.warning("%s: left out %d %s: %s", scene.where, len(names), reason, ", ".join(names))
    report = {"scene": key, "width": size[0], "height": size[1], "pictures": [frame.name for frame in scene.frames]}
    left_out = {"missing": scene.missing, "unregistered": scene.unregistered}
    return {**report, "held_out": held_out, "depth_range": scene.depth_range, **left_out}
