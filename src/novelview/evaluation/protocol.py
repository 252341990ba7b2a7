"""What is evaluated and how it is rendered: the entries of all splits, the model, and the baselines beside it.

Source: specs/uplvsm.md section 10; unlike its loader nothing is dropped, padded or repeated."""

import contextlib
import logging
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from novelview.config.schema import EvalConfig
from novelview.errors import DataError
from novelview.models.render import ViewModel
from novelview.scenes.batch import Batch, FrameCache, Views, collate
from novelview.scenes.store import PackedStore
from novelview.scenes.views import EvalEntry, known_entries

log = logging.getLogger(__name__)

SWAPPED = "_swapped_pose"
Images = Float[Tensor, "b t 3 h w"]


@dataclass(frozen=True)
class Place:
    """Where an entry stands: its split, its number in the split's index, and the set its scene belongs to."""

    split: str
    entry: int
    set: str


@dataclass
class Splits:
    """Entries to evaluate, each distinct one once, with every place it has in the splits."""

    names: list[str]
    entries: list[EvalEntry]
    places: list[list[Place]]
    offered: dict[str, int]  # entries in each split's index, servable or not

    @classmethod
    def of(cls, store: PackedStore, indices: Mapping[str, Sequence[EvalEntry]], sets: Mapping[str, str]) -> "Splits":
        """Gather the entries of all splits that `store` can serve; sets: scene -> name of its set, `test` by default.
        Raises DataError when no entry of an index can be served, or one asks for a frame its scene does not have."""
        found: dict[tuple[Any, ...], tuple[EvalEntry, list[Place]]] = {}
        for split, index in indices.items():
            if not index:
                log.warning("split %s: its index has no entries, so it has no scores", split)
                continue
            servable = set(known_entries(index, store, f"split {split}"))
            for number, entry in ((number, entry) for number, entry in enumerate(index) if entry in servable):
                own = found.setdefault((entry.scene, entry.context, entry.target), (entry, []))
                own[1].append(Place(split, number, sets.get(entry.scene, "test")))
        if not found:
            raise DataError("no split to evaluate; name some as eval.splits=[...]")
        entries, places = zip(*found.values(), strict=True)
        return cls(list(indices), list(entries), list(places), {split: len(index) for split, index in indices.items()})

    def coverage(self) -> dict[str, dict[str, int]]:
        """Return {split: {index, evaluated}}: how many entries its index has and how many of them are served."""
        own = Counter(place.split for places in self.places for place in places)
        return {split: {"index": count, "evaluated": own[split]} for split, count in self.offered.items()}


def evenly(length: int, count: int) -> list[int]:
    """Return `count` numbers below `length`, evenly spaced, repeated when there are not enough."""
    return [int((turn + 0.5) * length / count) for turn in range(count)] if length else []


def choose_scenes(splits: Splits, count: int) -> list[int]:
    """Choose one entry number a scene, its widest context, from up to `count` scenes: sets in turn, evenly spread."""
    widths = [max(entry.context) - min(entry.context) for entry in splits.entries]
    scenes: dict[str, list[int]] = defaultdict(list)
    for number, entry in enumerate(splits.entries):
        scenes[entry.scene].append(number)
    sets: dict[str, list[int]] = defaultdict(list)
    for number in (max(numbers, key=widths.__getitem__) for numbers in scenes.values()):
        sets[splits.places[number][0].set].append(number)
    shares = [count // len(sets) + (turn < count % len(sets)) for turn in range(len(sets))]
    pairs = [(members, min(share, len(members))) for members, share in zip(sets.values(), shares, strict=True)]
    return [members[spot] for members, share in pairs for spot in evenly(len(members), share)]


def load_context(cache: FrameCache, scene: str, frames: Sequence[int], row: int, device: torch.device) -> Batch:
    """Return a batch of one scene whose context views are `frames`, and which has no targets."""
    return collate([cache.sample(scene, frames, row)], len(frames)).to_batch(device)


def render_all(model: ViewModel, name: str, batch: Batch, cfg: EvalConfig) -> Iterator[tuple[str, Images]]:
    """Yield (name, images in [0,1]) of the model, of the model with swapped poses, and of the baselines."""
    yield name, render(model, batch.context, batch.target, cfg.amp)
    if cfg.swap_poses and (model.needs_target_poses or model.needs_target_images) and batch.target.c2w.shape[1] > 1:
        yield name + SWAPPED, render(model, batch.context, swap_poses(batch.target), cfg.amp)
    for baseline, function in BASELINES.items():
        yield baseline, function(batch.context, batch.target)


@torch.no_grad()
def render(model: ViewModel, context: Views, target: Views, amp: str = "none") -> Images:
    """Return the model's images of `target` as float32; amp: none, or bf16 for autocast as the reference does."""
    with autocast(amp, context.c2w.device):
        return model(context, target).images.float()


def autocast(amp: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which a model renders for evaluation."""
    return torch.autocast(device.type, torch.bfloat16) if amp == "bf16" else contextlib.nullcontext()


def swap_poses(target: Views) -> Views:
    """Give every target the camera, and the image a pose would be estimated from, of the next target of its entry."""
    order = torch.arange(target.c2w.shape[1], device=target.c2w.device).roll(-1)
    return target.take(order.expand(len(target.c2w), -1))


def nearest_context(context: Views, target: Views) -> Images:
    """Copy the context view whose camera centre is nearest to the target's; at equal distance, nearest in time."""
    assert context.images is not None
    # compared to four digits: on a path traversed at constant speed the middle frame is a tie
    apart = torch.cdist(target.c2w[..., :3, 3].double(), context.c2w[..., :3, 3].double())
    steps = (apart / apart.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12) * 1e4).round()
    if context.frame is not None and target.frame is not None:
        later = (target.frame[:, :, None] - context.frame[:, None]).abs().double()
        steps = steps + later / (later.amax() + 1)
    rows = torch.arange(len(context.images), device=context.images.device)[:, None]
    return context.images[rows, steps.argmin(dim=2)]


def mean_context(context: Views, target: Views) -> Images:
    """Return the mean of the context views, pixel by pixel."""
    assert context.images is not None
    return context.images.mean(dim=1, keepdim=True).expand(-1, target.c2w.shape[1], -1, -1, -1)


def mean_colour(context: Views, target: Views) -> Images:
    """Return an image of the mean colour over all pixels of the context views."""
    assert context.images is not None
    flat = context.images.mean(dim=(1, 3, 4), keepdim=True)
    return flat.expand(-1, target.c2w.shape[1], -1, *context.images.shape[-2:])


# What needs no model is scored beside every model, in the same rows.
BASELINES = {function.__name__: function for function in (nearest_context, mean_context, mean_colour)}
