"""Which frames make a sample: the training sampler, and evaluation indices in RealEstate10K's JSON format."""

import logging
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from novelview.config.schema import ViewsConfig
from novelview.errors import ConfigError, DataError
from novelview.files import read_json, write_json
from novelview.scenes.bounded import SAMPLERS, fewest_frames

log = logging.getLogger(__name__)


def select_views(n_frames: int, rng: random.Random, cfg: ViewsConfig) -> list[int] | None:
    """Draw `cfg.num_views` frame numbers of a scene with `n_frames` frames; None when the scene is too short.

    The first two are the ends of an interval whose length lies in [min_frame_dist, min(n_frames - 1, max_frame_dist)];
    the others lie strictly inside, distinct, in random order. The calls on `rng` and their order are the reference
    sampler's (specs/uplvsm.md section 9). Raises ConfigError when the shortest interval cannot hold the views.
    """
    inside = cfg.num_views - 2
    if cfg.min_frame_dist - 1 < inside:
        raise ConfigError(
            f"views.min_frame_dist={cfg.min_frame_dist}: an interval this short holds no {inside} views between "
            f"its ends; raise it to {inside + 1} or lower views.num_views"
        )
    longest = min(n_frames - 1, cfg.max_frame_dist)
    if not long_enough(n_frames, cfg):
        return None
    distance = rng.randint(cfg.min_frame_dist, longest)
    start = rng.randint(0, n_frames - distance - 1)
    end = start + distance
    return [start, end, *rng.sample(range(start + 1, end), inside)]


def random_views(sound: Sequence[int], rng: random.Random, cfg: ViewsConfig) -> list[int] | None:
    """Draw `cfg.num_views` of the undamaged frames of a scene, in random order; None when there are too few.

    The first num_context are the inputs and the last num_target the targets: with more of both than are drawn, the
    middle ones are both (specs/lact.md sections 7 and 8; there a short scene gives fewer views, which no batch holds).
    """
    return rng.sample(list(sound), cfg.num_views) if len(sound) >= cfg.num_views else None


def long_enough(n_frames: int, cfg: ViewsConfig) -> bool:
    """Tell whether the training sampler accepts a scene of `n_frames` frames (specs/uplvsm.md section 9)."""
    if cfg.sampler == "random":
        return n_frames >= cfg.num_views
    if cfg.sampler in SAMPLERS:
        return n_frames >= fewest_frames(cfg)
    return n_frames >= cfg.num_views and min(n_frames - 1, cfg.max_frame_dist) > cfg.min_frame_dist


def select_targets(rng: random.Random, cfg: ViewsConfig) -> list[int]:
    """Choose the target views of one training sample, as positions within its `cfg.num_views` loaded views.

    With `target_has_input` they are drawn without replacement from all views, contexts included; otherwise they are
    the first `num_target` views after the contexts, which the sampler already put in random order. With
    `sampler=random` they are the last of all views.
    """
    if cfg.sampler == "random":
        return list(range(cfg.num_views - cfg.num_target, cfg.num_views))
    if cfg.target_has_input:
        return rng.sample(range(cfg.num_views), cfg.num_target)
    return list(range(cfg.num_context, cfg.num_context + cfg.num_target))


@dataclass(frozen=True)
class EvalEntry:
    """One evaluation sample: frame numbers of context and target views in `scene`, and their overlap in [0,1]."""

    scene: str
    context: tuple[int, ...]
    target: tuple[int, ...]
    overlap: float | None = None


class FrameSource(Protocol):
    """What index checks ask of a packed store."""

    @property
    def scenes(self) -> Sequence[str]: ...

    def frames(self, scene: str) -> int: ...

    def bad(self, scene: str) -> Any: ...


def load_index(path: Path | str) -> list[EvalEntry]:
    """Read an evaluation index: scene -> null, one entry, or (our extension) a list of entries; nulls are left out.

    Raises DataError, naming file and scene, when the file is missing, not JSON or not of this form.
    """
    content = read_json(path, "correct it or make it again")
    if not isinstance(content, dict):
        raise DataError(f"{path}: an evaluation index is a JSON object of scenes, this is a {type(content).__name__}")
    entries = []
    for scene, value in content.items():
        rows = value if isinstance(value, list) else [value]
        entries += [_entry(path, scene, row) for row in rows if row is not None]
    return entries


def _entry(path: Path | str, scene: str, row: Any) -> EvalEntry:
    if not isinstance(row, Mapping):
        raise DataError(f"{path}: scene {scene}: expected null, an entry or a list of entries, found {row!r}")
    context, target = (_frames(path, scene, row, key) for key in ("context", "target"))
    overlap = row.get("overlap")
    if overlap is not None and (type(overlap) not in (int, float) or not math.isfinite(overlap)):
        raise DataError(f"{path}: scene {scene}: 'overlap' must be a number, found {overlap!r}")
    return EvalEntry(scene, context, target, None if overlap is None else float(overlap))


def _frames(path: Path | str, scene: str, row: Mapping[str, Any], key: str) -> tuple[int, ...]:
    numbers = row.get(key)
    whole = isinstance(numbers, list) and all(type(number) is int and number >= 0 for number in numbers)
    if not whole or not numbers:
        raise DataError(f"{path}: scene {scene}: '{key}' must be a list of frame numbers, found {numbers!r}")
    return tuple(numbers)


def save_index(path: Path | str, entries: Sequence[EvalEntry]) -> None:
    """Write entries in the form `load_index` reads, atomically; a scene with one entry keeps the published form."""
    scenes: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        row: dict[str, Any] = {"context": list(entry.context), "target": list(entry.target)}
        if entry.overlap is not None:
            row["overlap"] = entry.overlap
        scenes.setdefault(entry.scene, []).append(row)
    write_json(path, {scene: rows[0] if len(rows) == 1 else rows for scene, rows in scenes.items()})


def known_entries(entries: Sequence[EvalEntry], store: FrameSource, name: str) -> list[EvalEntry]:
    """Keep the entries that `store` can serve; `name` is the index' name in messages.

    Scenes the store does not have and entries on damaged frames are left out and counted in the log. Raises DataError
    when a frame lies beyond its scene, or when nothing is left.
    """
    scenes = set(store.scenes)
    present = [entry for entry in entries if entry.scene in scenes]
    for entry in present:
        _check_range(entry, store.frames(entry.scene), name)
    whole = [entry for entry in present if not store.bad(entry.scene) & {*entry.context, *entry.target}]
    absent, damaged = len(entries) - len(present), len(present) - len(whole)
    if not whole:
        raise DataError(
            f"{name}: none of its {len(entries)} entries can be served ({absent} name scenes that are not here, "
            f"{damaged} have damaged frames); is it the index of this data set?"
        )
    if absent:
        log.warning("%s: %d of %d entries name scenes that are not here", name, absent, len(entries))
    if damaged:
        log.warning("%s: %d entries left out, their frames are damaged", name, damaged)
    return whole


def _check_range(entry: EvalEntry, n_frames: int, name: str) -> None:
    highest = max(*entry.context, *entry.target)
    if highest >= n_frames:
        raise DataError(
            f"{name}: scene {entry.scene}: frame {highest} does not exist, the scene has {n_frames} frames; "
            "is it the index of this data set?"
        )
