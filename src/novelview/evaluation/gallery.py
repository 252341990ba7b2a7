"""Pictures kept for the figures: context views, target, render, and the encoder's attention where a model has it.

`gallery.safetensors` holds `{n}.context` [v 3 h w], `{n}.target` and `{n}.render` [1 3 h w], all uint8 RGB, and for the
first samples of a model with attention `{n}.attention` [p p] float16 (rows: patches of context view 0, columns:
patches of context view 1). Models that predict depth add `{n}.depth`, and where it is known `{n}.true_depth`, [v h w]
float16, z of the context views in scene units. The metadata key `gallery` is a JSON list, one object a sample: scene,
set, split, entry, context and target frame numbers, psnr of the render before rounding.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from safetensors.torch import save
from torch import Tensor

from novelview.evaluation.geometry import Truth, encoded, exact
from novelview.evaluation.metrics import psnr
from novelview.evaluation.protocol import Model, Place, Task
from novelview.files import write_bytes
from novelview.models.depthsplat.model import DepthSplat
from novelview.models.registry import ordered
from novelview.scenes.batch import Batch, Views

MAX_ATTENTION = 4  # samples whose attention is kept: it grows with the fourth power of the image's side


def choose(task: Task, count: int) -> list[tuple[int, Place]]:
    """Choose up to `count` (entry number, place) pairs, evenly spread over sets and splits and then over scenes.

    The choice depends on the indices alone, so all models of a data set keep the same pictures.
    """
    groups: dict[tuple[str, str], list[tuple[int, Place]]] = {}
    for split in task.splits:
        for number, places in enumerate(task.places):
            for place in (place for place in places if place.split == split):
                groups.setdefault((split, place.set), []).append((number, place))
    names = list(groups)
    picked: list[tuple[int, Place]] = []
    for turn, name in enumerate(names[spot] for spot in _spread(len(names), count)):
        start = int((turn + 0.5) * len(groups[name]) / count)
        picked.append(_fresh(task, groups[name][start:] + groups[name][:start], picked))
    return picked


def _spread(length: int, count: int) -> list[int]:
    """Return `count` numbers below `length`, evenly spaced, repeated when there are not enough."""
    return [int((turn + 0.5) * length / count) for turn in range(count)] if length else []


def _fresh(task: Task, members: Sequence[tuple[int, Place]], picked: Sequence[tuple[int, Place]]) -> tuple[int, Place]:
    """Return the first member of a scene not yet picked, else the first not yet picked, else the first."""
    scenes = {task.entries[number].scene for number, _ in picked}
    other_scenes = (member for member in members if task.entries[member[0]].scene not in scenes)
    return next(other_scenes, next((member for member in members if member not in picked), members[0]))


@dataclass
class Gallery:
    """Collects the chosen pictures while an evaluation renders them; pass `watch` to `protocol.evaluate`."""

    model: Model
    task: Task
    chosen: list[tuple[int, Place]]
    truth: Truth = field(default_factory=Truth)
    found: dict[int, tuple[dict[str, Any], dict[str, Tensor]]] = field(default_factory=dict)

    def watch(self, numbers: Sequence[int], batch: Batch, images: Float[Tensor, "b t 3 h w"]) -> None:
        """Keep the samples of a batch that were chosen."""
        for turn in self.turns(numbers):
            number, place = self.chosen[turn]
            row = list(numbers).index(number)
            self.found[turn] = self._sample(number, place, batch, images, row, turn < MAX_ATTENTION)

    def turns(self, numbers: Sequence[int]) -> list[int]:
        """Return the places, among the chosen, of the samples that belong to these entries."""
        return [turn for turn, (number, _) in enumerate(self.chosen) if number in numbers]

    def _sample(
        self, number: int, place: Place, batch: Batch, images: Tensor, row: int, attend: bool
    ) -> tuple[dict[str, Any], dict[str, Tensor]]:
        assert batch.context.images is not None and batch.target.images is not None
        entry = self.task.entries[number]
        middle = len(entry.target) // 2
        target, image = batch.target.images[row, middle][None], images[row, middle][None]
        tensors = {"context": batch.context.images[row], "target": target, "render": image}
        kept = {name: to_uint8(tensor).cpu().contiguous() for name, tensor in tensors.items()}
        kept |= self._depths(batch, row)
        if attend:
            kept |= attention(self.model, row_of(batch.context, row))
        facts = {"scene": entry.scene, "set": place.set, "split": place.split, "entry": place.entry}
        frames = {"context": list(entry.context), "target": [entry.target[middle]]}
        return {**facts, **frames, "psnr": round(float(psnr(image, target)), 4)}, kept

    def _depths(self, batch: Batch, row: int) -> dict[str, Tensor]:
        """Return z-depths of the context views, float16: `depth` predicted and, where known, `true_depth`."""
        if not isinstance(self.model, DepthSplat):
            return {}
        alone = Batch([batch.scene[row]], row_of(batch.context, row), row_of(batch.target, row))
        depth = encoded(self.model, alone, "none").depths[0]
        kept = {"depth": depth.half().cpu().contiguous()}
        if self.truth.depth is not None:
            kept["true_depth"] = exact(alone, self.truth.depth, *depth.shape[-2:]).half().contiguous()
        return kept

    def write(self, path: Path | str, parts: Sequence[dict[int, Any]]) -> int:
        """Write the samples of all processes (`parts`: their `found`) to `path`; return how many there are."""
        found = {turn: sample for part in parts for turn, sample in part.items()}
        samples = [found[turn] for turn in sorted(found)]
        tensors = {f"{n}.{name}": tensor for n, (_, kept) in enumerate(samples) for name, tensor in kept.items()}
        header = json.dumps([facts for facts, _ in samples])
        write_bytes(path, ordered(save(tensors, {"format": "novelview", "gallery": header})))
        return len(samples)


@torch.no_grad()
def attention(model: Model, context: Views) -> dict[str, Float[Tensor, "p p"]]:
    """Return {"attention": weights from patches of view 0 to patches of view 1}, or nothing when there are none.

    Only models with an `attention_map` have any, and only for two context views (specs/uplvsm.md section 11).
    """
    draw = getattr(model, "attention_map", None)
    if draw is None or context.c2w.shape[1] != 2:
        return {}
    whole = draw(context)[0].float().cpu()
    patches = len(whole) // 2
    return {"attention": whole[:patches, patches:].half().contiguous()}


def row_of(views: Views, row: int) -> Views:
    """Return scene `row` of a batch as a batch of one."""
    fields = (views.images, views.c2w, views.intrinsics, views.frame)
    return Views(*(None if value is None else value[row : row + 1] for value in fields))  # type: ignore[arg-type]


def to_uint8(images: Float[Tensor, "*n"]) -> UInt8[Tensor, "*n"]:
    """Round images in [0,1] to bytes."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)
