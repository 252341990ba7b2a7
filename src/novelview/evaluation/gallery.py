"""Pictures kept for the figures, and finished batches kept on disk until the evaluation is whole.

`gallery.safetensors` holds `{n}.context` [v 3 h w], `{n}.target` and `{n}.render` [1 3 h w], uint8 RGB; of the first
samples of a model with attention `{n}.attention` [p p] float16 (see `attention`); of a model that predicts depth
`{n}.depth` and, where known, `{n}.true_depth` [v h w] float16, z of the context views in scene units. The metadata key
`gallery` is a JSON list of {scene, set, split, entry, context and target frame numbers, psnr before rounding}."""

import io
import itertools
import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor

from novelview.devices import Team
from novelview.evaluation.clips import to_uint8
from novelview.evaluation.geometry import Truth, encode, true_depth
from novelview.evaluation.metrics import psnr
from novelview.evaluation.protocol import Place, Splits, evenly
from novelview.evaluation.scores import ImageScores
from novelview.files import write_bytes
from novelview.models.depthsplat.model import DepthSplat
from novelview.models.registry import ordered
from novelview.models.render import ViewModel
from novelview.scenes.batch import Batch, Views
from novelview.timebox import TimeBox, Unfinished

MAX_ATTENTION = 4  # samples whose attention is kept: it grows with the fourth power of the image's side

Chosen = tuple[int, Place]  # entry number, one of its places


def choose_samples(splits: Splits, count: int) -> list[Chosen]:
    """Choose up to `count` samples, evenly spread over sets and splits, then scenes; the same for every model."""
    groups: dict[tuple[str, str], list[Chosen]] = {}
    every = [(number, place) for number, places in enumerate(splits.places) for place in places]
    for split, (number, place) in itertools.product(splits.names, every):
        if place.split == split:
            groups.setdefault((split, place.set), []).append((number, place))
    names = list(groups)
    picked: list[Chosen] = []
    for turn, name in enumerate(names[spot] for spot in evenly(len(names), count)):
        start = int((turn + 0.5) * len(groups[name]) / count)
        members = groups[name][start:] + groups[name][:start]
        # the first of a scene not yet picked, else the first not yet picked, else the first
        scenes = {splits.entries[number].scene for number, _ in picked}
        other_scenes = [member for member in members if splits.entries[member[0]].scene not in scenes]
        picked.append([*other_scenes, *(member for member in members if member not in picked), members[0]][0])
    return picked


@dataclass
class Gallery:
    """Collects the chosen pictures while an evaluation renders them; `found`: (facts, tensors) by place in `chosen`."""

    model: ViewModel
    splits: Splits
    chosen: list[Chosen]
    truth: Truth
    found: dict[int, tuple[dict[str, Any], dict[str, Tensor]]] = field(default_factory=dict)

    def collect(self, numbers: Sequence[int], batch: Batch, images: Float[Tensor, "b t 3 h w"]) -> None:
        """Keep the samples of a batch that were chosen; numbers: its entries; images: the model's renders."""
        for turn in self.turns(numbers):
            number, place = self.chosen[turn]
            entry, row = self.splits.entries[number], list(numbers).index(number)
            fields = (vars(views).values() for views in (batch.context, batch.target))
            views = (Views(*(value if value is None else value[row : row + 1] for value in part)) for part in fields)  # type: ignore[arg-type]
            alone = Batch([batch.scene[row]], *views)
            assert alone.context.images is not None and alone.target.images is not None
            middle = len(entry.target) // 2
            target, image = alone.target.images[0, middle][None], images[row][middle][None]
            tensors = {"context": alone.context.images[0], "target": target, "render": image}
            kept = {name: to_uint8(tensor).cpu().contiguous() for name, tensor in tensors.items()}
            if isinstance(self.model, DepthSplat):
                depth = encode(self.model, alone, "none").depths[0]
                kept["depth"] = depth.half().cpu().contiguous()
                if self.truth.depth is not None:
                    kept["true_depth"] = true_depth(alone, self.truth.depth, *depth.shape[-2:]).half().contiguous()
            if turn < MAX_ATTENTION:
                kept |= attention(self.model, alone.context)
            facts = {"scene": entry.scene, "set": place.set, "split": place.split, "entry": place.entry}
            facts |= {"context": list(entry.context), "target": [entry.target[middle]]}
            self.found[turn] = {**facts, "psnr": round(float(psnr(image, target)), 4)}, kept

    def turns(self, numbers: Sequence[int]) -> list[int]:
        """Return the places, among the chosen, of the samples that belong to these entries."""
        return [turn for turn, (number, _) in enumerate(self.chosen) if number in numbers]

    def write(self, path: Path | str, parts: Sequence[dict[int, Any]]) -> None:
        """Write the samples of all processes (`parts`: their `found`) to `path`."""
        found = {turn: sample for part in parts for turn, sample in part.items()}
        samples = [found[turn] for turn in sorted(found)]
        tensors = {f"{n}.{name}": tensor for n, (_, kept) in enumerate(samples) for name, tensor in kept.items()}
        header = json.dumps([facts for facts, _ in samples])
        write_bytes(path, ordered(save(tensors, {"format": "novelview", "gallery": header})))


@torch.no_grad()
def attention(model: ViewModel, context: Views) -> dict[str, Float[Tensor, "p p"]]:
    """Return {"attention": weights from patches of view 0 (rows) to patches of view 1 (columns)}; {} for models without
    an `attention_map` and for other than two context views (specs/uplvsm.md section 11)."""
    draw = getattr(model, "attention_map", None)
    if draw is None or context.c2w.shape[1] != 2:
        return {}
    whole = draw(context)[0].float().cpu()
    patches = len(whole) // 2
    return {"attention": whole[:patches, patches:].half().contiguous()}


class FinishedBatches:
    """Scored batches of one process on disk, each a unit of `box`, so that a later call goes on after the last one."""

    def __init__(self, out: Path, stamp: str, box: TimeBox, gallery: Gallery, team: Team) -> None:
        self.box, self.gallery, self.team = box, gallery, team
        self.units = Unfinished(out, stamp, own=team.rank == 0)
        team.gather(None)  # the first process removes batches of another stamp before the others look

    def read(self, numbers: Sequence[int]) -> list[ImageScores] | None:
        """Return the rows of the batch of these entries, its pictures given to the gallery; None where it is to do."""
        content = self.units.read(self._name(numbers))
        found = torch.load(io.BytesIO(content), weights_only=True) if content else {}
        if found.get("numbers") != list(numbers):
            return None
        self.gallery.found |= found["pictures"]
        return [ImageScores(*values) for values in found["rows"]]

    def keep(self, numbers: Sequence[int], rows: Sequence[ImageScores]) -> bool:
        """Keep a batch where the time is limited; return whether it is over."""
        if not self.box.limited:
            return False
        pictures = {turn: self.gallery.found[turn] for turn in self.gallery.turns(numbers)}
        content = {"numbers": list(numbers), "rows": [astuple(row) for row in rows], "pictures": pictures}
        torch.save(content, stream := io.BytesIO())
        self.units.keep(self._name(numbers), stream.getvalue())
        self.box.units += 1
        return self.box.over

    def _name(self, numbers: Sequence[int]) -> str:
        return f"batch-{numbers[0]:06d}-{self.team.rank}-of-{self.team.world}"
