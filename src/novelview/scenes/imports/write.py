"""Imported collections to chunks: flat lenses, bounded size, JPEG, held-out frames and their evaluation entries."""

import hashlib
import io
import logging
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from novelview.cameras.camera import opaque
from novelview.config.sources import PicturesSource, check_source
from novelview.errors import DataError
from novelview.files import sha256, write_bytes, write_json
from novelview.scenes.chunks import MOST_INTRINSIC, ChunkScene, ChunkWriter
from novelview.scenes.imports.scene import (
    SAME_SHAPE,
    ImportedFrame,
    ImportedScene,
    Lens,
    opened_picture,
    read_mask,
    read_picture,
    stored_size,
    undistort,
)
from novelview.scenes.store import COUNTS, MASKS
from novelview.scenes.views import EvalEntry, save_index

logger = logging.getLogger(__name__)
HELD_OUT = "held_out"
SPLITS = {"train": ("train",), "test": ("test",), HELD_OUT: ("train", "test")}
COUNTED = ("pictures", "held_out", "missing", "unregistered", "left_out")
FARTHEST = 1e9  # units between camera and origin: beyond it float64 has few digits left for the steps between cameras
EIGHTH = 8  # pictures of which one is kept for evaluation, unless source.held_out says how many are
SHOWN = 5  # names in a line
FAR = 100  # times the cameras' extent from the origin, from where on float32 would move them against each other


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
    seen |= {"offset": report["offset"]} if "offset" in report else {}
    seen |= {} if scene.posed else {"posed": False}
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
            held_out = scene_held_out(scene, source.held_out) if group == HELD_OUT else []
            whole, made, masks = _converted(scene, source, dataset, progress, prefix)
            for number, content in masks.items():
                write_bytes(folder / MASKS / whole.key / f"{number:06d}.png", content)
            made["masks"] = len(masks)
            for split in SPLITS[group]:
                rows = [row for row in range(len(whole.images)) if split == "test" or row not in held_out]
                images = [whole.images[row] for row in rows]
                writers[split].add(ChunkScene(whole.key, "", whole.timestamps[rows], whole.cameras[rows], images))
            centres = np.stack([frame.c2w[:3, 3] for frame in scene.frames])
            if not scene.posed:  # nearest are the pictures that were taken next
                centres[:, 0] = np.arange(len(centres))
            entries += held_out_entries(whole.key, centres, held_out, getattr(source, "context_gap", 0))
            reports.append((group, _report(scene, whole.key, held_out, made)))
    if entries:
        save_index(folder / "indices" / "held_out.json", entries)
    sets = {report["scene"]: {"set": group} for group, report in reports if group != "train"}
    write_json(folder / "scenes.json", sets)
    return reports


def scene_held_out(scene: ImportedScene, asked: int) -> list[int]:
    """Return the frame numbers to keep for evaluation; `asked` 0: an eighth, at least one, which a line says.

    Where photographs found no pose after `asked` was checked, fewer are kept, which a line says, too."""
    frames = len(scene.frames)
    wanted = asked or max(1, frames // EIGHTH)
    if not asked:
        logger.info("%s: %d of %d pictures are kept for evaluation (source.held_out)", scene.where, wanted, frames)
    most = max(1, min(frames // 2, frames - 2))
    if scene.unregistered and wanted > most:
        logger.warning("%s: %d pictures have a pose: %d kept for evaluation, not %d", scene.where, frames, most, wanted)
        wanted = most
    try:
        return choose_held_out(frames, wanted)
    except DataError as error:
        raise DataError(f"{scene.where}: {error}") from None


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
) -> tuple[ChunkScene, dict[str, Any], dict[int, bytes]]:
    """Return a scene, its key a digest of names and bytes; what became of its pictures, for the report; and masks.

    Pictures of other sizes or orientations than most are scaled and cut to the size of those, intrinsics with them."""
    flat: dict[Lens, Lens] = {}
    lenses, sizes = list[Lens](), list[tuple[int, int]]()
    for frame in scene.frames:
        with opened_picture(frame.path) as image:
            lens = frame.fitted(*stored_size(image, scene.upright))
        if lens not in flat:
            try:
                flat[lens] = scene.flatten(lens)
            except DataError as error:
                raise DataError(f"{frame.name}: {error}") from None
        lenses.append(lens)
        sizes.append(_shrunk(lens, source.max_side))
    size = max(Counter(sizes).items(), key=lambda item: (item[1], item[0][0] * item[0][1]))[0]
    offset = far_offset(scene.frames)
    images: list[bytes] = []
    masks: dict[int, bytes] = {}
    cameras: list[list[float]] = []
    total = hashlib.sha256(dataset.encode())
    bar = tqdm(scene.frames, unit="picture", desc="import", disable=not progress)
    for frame, lens in zip(bar, lenses, strict=True):
        picture, factor = read_picture(frame.path, scene.upright, source.max_side)
        bent, straight = (one.resized(1 / factor, 1 / factor, picture.size) for one in (lens, flat[lens]))
        if mask := read_mask(frame, (lens.width, lens.height), picture.size):
            flat_mask = np.asarray(_develop(mask, bent, straight, size, 0.0)[0])[..., 0]
            Image.fromarray(flat_mask >= COUNTS).save(content := io.BytesIO(), "PNG")
            masks[len(images)] = content.getvalue()
        picture, final = _develop(picture, bent, straight, size, scene.background)
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=source.jpeg_quality, subsampling=0)
        images.append(buffer.getvalue())
        cameras.append(_camera(frame, final, offset))
        # File names need not be UTF-8.
        total.update(f"\0{frame.name}\0{sha256(frame.path)}".encode("utf-8", "surrogateescape"))
    key, rows = prefix + total.hexdigest()[:16], torch.from_numpy(np.array(cameras, np.float32))
    made: dict[str, Any] = {"width": size[0], "height": size[1]}
    if others := [frame.name for frame, own in zip(scene.frames, sizes, strict=True) if own != size]:
        made["fitted"] = others
        names = ", ".join([*others[:SHOWN], "..."] if len(others) > SHOWN else others)
        logger.warning("%s: scaled and cut to %dx%d, the size of most: %s", scene.where, *size, names)
    if offset.any():
        made["offset"] = offset.tolist()
        logger.warning("%s: cameras stand far from the origin; moved by %s", scene.where, (-offset).tolist())
    return ChunkScene(key, "", torch.arange(len(images)), rows, images), made, masks


def far_offset(frames: Sequence[ImportedFrame]) -> Float[NDArray, " 3"]:
    """Return the cameras' mean where they stand so far from the origin that float32 would move them (UTM, earth-centred
    coordinates), else zeros; DataError beyond FARTHEST, where float64 does, too."""
    for frame in frames:
        if not np.abs(np.linalg.inv(frame.c2w)[:3]).max() <= FARTHEST:
            raise DataError(f"{frame.path}: its camera stands more than {FARTHEST:g} units away; correct its pose")
    centres = np.stack([frame.c2w[:3, 3] for frame in frames])
    middle = centres.mean(0)
    far = np.abs(centres).max() > FAR * np.abs(centres - middle).max()
    return middle if far and len(frames) > 1 and np.ptp(centres, axis=0).any() else np.zeros(3)


def _camera(frame: ImportedFrame, flat: Lens, offset: Float[NDArray, " 3"]) -> list[float]:
    fx, fy, cx, cy = flat.normalised()
    c2w = frame.c2w.copy()
    c2w[:3, 3] -= offset
    w2c = np.linalg.inv(c2w)[:3]
    if not max(abs(cx - 0.5), abs(cy - 0.5)) < 0.5:
        raise DataError(f"{frame.path}: its principal point lies outside of the picture; correct cx and cy, or w and h")
    if not 1 / MOST_INTRINSIC < min(fx, fy) <= max(fx, fy) < MOST_INTRINSIC:
        raise DataError(
            f"{frame.path}: focal lengths of {fx:.3g} widths and {fy:.3g} heights; correct them, or w and h"
        )
    return [fx, fy, cx, cy, 0.0, 0.0, *w2c.flatten().tolist()]


def _shrunk(lens: Lens, max_side: int) -> tuple[int, int]:
    scale = min(1.0, max_side / max(lens.width, lens.height)) if max_side else 1.0
    return max(1, round(lens.width * scale)), max(1, round(lens.height * scale))


def _develop(
    picture: Image.Image, lens: Lens, flat: Lens, size: tuple[int, int], background: float
) -> tuple[Image.Image, Lens]:
    """Return the picture without distortion, scaled to cover `size` and cut to it around its middle; and its lens."""
    # Transparent pictures are shrunk before they are composited (specs/lact.md), except where undistortion needs RGB.
    if lens != flat:
        picture = undistort(opaque(picture, background), lens, flat)
    if abs(size[0] / size[1] * picture.height / picture.width - 1) <= SAME_SHAPE:  # rounding of one shape: all of it
        across, down = size[0] / picture.width, size[1] / picture.height
    else:
        across = down = max(size[0] / picture.width, size[1] / picture.height)
    left, top = (picture.width * across - size[0]) / 2, (picture.height * down - size[1]) / 2
    if picture.size != size:
        box = left / across, top / down, picture.width - left / across, picture.height - top / down
        picture = picture.resize(size, Image.Resampling.LANCZOS, box)
    return opaque(picture, background), flat.resized(across, down, size, (left, top))


def _report(scene: ImportedScene, key: str, held_out: list[int], made: dict[str, Any]) -> dict[str, Any]:
    lists = ("without a picture", scene.missing), ("without a pose", scene.unregistered)
    for reason, names in (*lists, ("that are no photograph here", [f"{n} ({w})" for n, w in scene.left_out.items()])):
        if names:
            logger.warning("%s: left out %d %s: %s", scene.where, len(names), reason, ", ".join(names))
    report = {"scene": key, "pictures": [frame.name for frame in scene.frames], "held_out": held_out, **made}
    left_out = {"missing": scene.missing, "unregistered": scene.unregistered, "left_out": scene.left_out}
    return {**report, "depth_range": scene.depth_range, **left_out}
