"""The evaluation protocol (specs/uplvsm.md section 10): every target of every entry scored once, whatever the batch.

Unlike the reference loader nothing is dropped, padded or repeated; an entry that several splits share is rendered
once and scored in each.
"""

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from novelview.config.schema import EvalConfig, ViewsConfig
from novelview.errors import CheckpointError, DataError
from novelview.evaluation.baselines import BASELINES
from novelview.evaluation.metrics import Lpips, psnr, ssim
from novelview.evaluation.rows import Row, in_order
from novelview.evaluation.sharpness import sharpness
from novelview.scenes.batch import Batch, Views
from novelview.scenes.dataset import EvalSet
from novelview.scenes.store import PackedStore
from novelview.scenes.views import EvalEntry, known_entries
from novelview.timebox import BoxEnded

log = logging.getLogger(__name__)

SWAPPED = "_swapped_pose"


class Model(Protocol):
    """What the protocol asks of a model (`novelview.models.registry`)."""

    needs_context_poses: bool
    needs_target_poses: bool
    needs_target_images: bool

    def __call__(self, context: Views, target: Views) -> Any: ...


class Ranks(Protocol):
    """The processes of one run (`novelview.training.distributed.Team`)."""

    @property
    def rank(self) -> int: ...

    @property
    def world(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def gather(self, value: Any) -> list[Any]: ...


class Kept(Protocol):
    """Batches that an earlier call scored (`novelview.evaluation.kept`)."""

    def read(self, numbers: Sequence[int]) -> list[Row] | None: ...

    def keep(self, numbers: Sequence[int], rows: Sequence[Row]) -> bool: ...


@dataclass(frozen=True)
class Alone:
    """A run of one process."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    rank: int = 0
    world: int = 1

    def gather(self, value: Any) -> list[Any]:
        """Return the value of every process: this one's."""
        return [value]


@dataclass(frozen=True)
class Place:
    """Where an entry stands: its split, its number in the split's index, and the set its scene belongs to."""

    split: str
    entry: int
    set: str


@dataclass
class Task:
    """Entries to evaluate, each distinct one once, with every place it has in the splits."""

    splits: list[str]
    entries: list[EvalEntry]
    places: list[list[Place]]
    offered: dict[str, int] = field(default_factory=dict)  # entries in each split's index, servable or not

    @classmethod
    def of(cls, store: PackedStore, indices: Mapping[str, Sequence[EvalEntry]], sets: Mapping[str, str]) -> "Task":
        """Gather the entries of all splits that `store` can serve.

        sets: scene -> name of its set; scenes without one are in set `test`. A split whose index is empty is left out
        with a warning. Raises DataError when no entry of an index can be served, or an entry asks for a frame its
        scene does not have.
        """
        found: dict[tuple[Any, ...], tuple[EvalEntry, list[Place]]] = {}
        for split, index in indices.items():
            if not index:
                log.warning("split %s: its index has no entries, so it has no scores", split)
                continue
            kept = set(known_entries(index, store, f"split {split}"))
            for number, entry in enumerate(index):
                if entry in kept:
                    key = entry.scene, entry.context, entry.target
                    places = found.setdefault(key, (entry, []))[1]
                    places.append(Place(split, number, sets.get(entry.scene, "test")))
        if not found:
            raise DataError("no split to evaluate; name some as eval.splits=[...]")
        offered = {split: len(index) for split, index in indices.items()}
        entries, places = zip(*found.values(), strict=True)
        return cls(list(indices), list(entries), list(places), offered)

    def coverage(self) -> dict[str, dict[str, int]]:
        """Return {split: {index, evaluated}}: how many entries its index has and how many of them are served."""
        own = Counter(place.split for places in self.places for place in places)
        return {split: {"index": count, "evaluated": own[split]} for split, count in self.offered.items()}


Watcher = Callable[[Sequence[int], Batch, Float[Tensor, "b t 3 h w"]], None]


def evaluate(
    model: Model,
    name: str,
    store: PackedStore,
    task: Task,
    views: ViewsConfig,
    cfg: EvalConfig,
    ranks: Ranks | None = None,
    lpips: Lpips | None = None,
    cache_mb: int = 512,
    watch: Sequence[Watcher] = (),
    progress: bool = False,
    kept: Kept | None = None,
) -> list[Row]:
    """Score `model`, the baselines and the model with swapped poses on every target of `task`.

    name: what the model is called in the rows. watch: called with (entry numbers, batch, the model's renders) on the
    process that rendered them. kept: batches scored before, which are not rendered again; raises BoxEnded, on every
    process, when it says on any that time is over with batches left. Every process returns the rows of all, in order.
    """
    team = ranks or Alone()
    data = EvalSet(store, task.entries, views, cache_mb)
    rows: list[Row] = []
    todo = []
    for numbers in data.groups(cfg.batch_size, team.rank, team.world):
        known = kept.read(numbers) if kept else None
        rows += known or []
        todo += [numbers] if known is None else []
    # disable=None: no bar where the output is a file
    bar = tqdm(
        data.load(todo, team.device), "evaluate", len(todo), disable=None if progress and not team.rank else True
    )
    left = len(todo)
    for numbers, batch in bar:
        renders = dict(render_all(model, name, batch, cfg))
        scored = _score(task, numbers, batch, renders, lpips)
        rows, left = rows + scored, left - 1
        for watcher in watch:
            watcher(numbers, batch, renders[name])
        if kept and kept.keep(numbers, scored) and left:
            break
    if kept:
        _end_together(team, left)
    return in_order((row for part in team.gather(rows) for row in part), task.splits)


def _end_together(team: Ranks, left: int) -> None:
    """Raise BoxEnded on every process where any has batches left."""
    waiting = sum(team.gather(left))
    if waiting:
        raise BoxEnded(f"{waiting} batches are left")


def render_all(
    model: Model, name: str, batch: Batch, cfg: EvalConfig
) -> Iterator[tuple[str, Float[Tensor, "b t 3 h w"]]]:
    """Yield (name, images in [0,1]) of the model, of the model with swapped poses, and of the baselines."""
    yield name, render(model, batch.context, batch.target, cfg.amp)
    if cfg.swap_poses and (model.needs_target_poses or model.needs_target_images) and batch.target.c2w.shape[1] > 1:
        yield name + SWAPPED, render(model, batch.context, swap_poses(batch.target), cfg.amp)
    for baseline, function in BASELINES.items():
        yield baseline, function(batch.context, batch.target)


@torch.no_grad()
def render(model: Model, context: Views, target: Views, amp: str = "none") -> Float[Tensor, "b t 3 h w"]:
    """Return the model's images of `target` as float32; amp: none, or bf16 for autocast as the reference does."""
    with autocast(amp, context.c2w.device):
        return model(context, target).images.float()


def autocast(amp: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which a model renders for evaluation."""
    return torch.autocast(device.type, torch.bfloat16) if amp == "bf16" else contextlib.nullcontext()


def swap_poses(target: Views) -> Views:
    """Give every target the camera, and the image a pose would be estimated from, of the next target of its entry."""
    count = target.c2w.shape[1]
    order = torch.arange(count, device=target.c2w.device).roll(-1)
    return target.take(order.expand(len(target.c2w), count))


def _score(
    task: Task, numbers: Sequence[int], batch: Batch, renders: Mapping[str, Tensor], lpips: Lpips | None
) -> list[Row]:
    assert batch.target.images is not None
    rows = []
    for name, images in renders.items():
        if not images.isfinite().all():
            raise CheckpointError(f"{name}: its renders of {', '.join(batch.scene)} are not finite; train it again")
        truth = batch.target.images
        quality, likeness, edges = (metric(images, truth).tolist() for metric in (psnr, ssim, sharpness))
        distance = lpips(images, truth).tolist() if lpips else [[None] * len(line) for line in quality]
        for line, number in enumerate(numbers):
            scores = zip(quality[line], likeness[line], distance[line], edges[line], strict=True)
            rows += _rows_of(name, task, number, list(scores))
    return rows


def _rows_of(
    name: str, task: Task, number: int, scores: Sequence[tuple[float, float, float | None, float]]
) -> Iterator[Row]:
    entry = task.entries[number]
    for place in task.places[number]:
        for frame, values in zip(entry.target, scores, strict=True):
            yield Row(name, entry.scene, place.set, place.split, place.entry, frame, *values)
