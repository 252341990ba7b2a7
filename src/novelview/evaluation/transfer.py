"""Whether a camera is a camera: the numbers that an unposed model finds in one room move the view of another alike.

Asked by XFactor (arXiv 2510.13063) of models that see a target through a code of their own. Twins (`source.twins`) are
pairs of rooms of other content under the same cameras, so the answer is exact: cameras estimated in one render the
other, against its true pictures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor

from novelview.config.schema import EvalConfig
from novelview.evaluation.metrics import psnr
from novelview.evaluation.protocol import BASELINES, autocast
from novelview.evaluation.scores import LEVEL, bounds, draws, interval
from novelview.files import read_json, write_bytes
from novelview.models.registry import ordered
from novelview.models.render import ViewModel
from novelview.scenes.batch import Batch, FrameCache, collate
from novelview.scenes.views import EvalEntry, load_index

INDEX = "transfer.json"
PICTURES = "transfer.safetensors"
KEPT = 4  # pairs whose pictures are kept
WAYS = ("own", "transfer", "swapped")
SHOWN = ("donor", "context", "target", *WAYS)
NO_TWINS = "n/a (no twins: procedural rooms have them with source.twins, photographs have none)"
MEASURES = {
    "own": "PSNR with the cameras estimated from the room's own pictures",
    "transfer": "PSNR with the cameras estimated from the twin's pictures",
    "swapped": "PSNR with the camera of another of the room's targets",
    "transferability": "(transfer - swapped) / (own - swapped), of the means",
}


def write_transfer(
    out: Path, model: Any, cache: FrameCache, raw: Path | None, cfg: EvalConfig, device: torch.device
) -> dict[str, Any] | None:
    """Write transfer.safetensors (pictures of the first pairs); return {reason, measures, level, pairs, means and
    intervals}, its reason None if it has scores; None for a model that estimates no cameras.

    raw: the folder of the data set with its indices. A pair counts in both directions."""
    if not hasattr(model, "estimate_poses"):
        return None
    about: dict[str, Any] = {"reason": NO_TWINS, "measures": MEASURES, "level": LEVEL, "pairs": 0}
    index = raw / "indices" / INDEX if raw else None
    if index is None or not index.is_file():
        return about
    pairs = pairs_of(index, cache)
    scores: dict[str, list[float]] = {name: [] for name in (*WAYS, *BASELINES)}
    pictures: list[Tensor] = []
    for pair in pairs:
        batches = [
            collate([cache.sample(one.scene, [*one.context, *one.target], 0)], 2).to_batch(device) for one in pair
        ]
        renders = [render_with(model, other, own, cfg.amp) for other, own in (batches[::-1], batches)]
        both = [quality(own, images) for own, images in zip(batches, renders, strict=True)]
        for name, values in scores.items():
            values.append(sum(one[name] for one in both) / 2)
        if len(pictures) < KEPT:
            pictures.append(_picture(batches[1], batches[0], renders[0]))
    kept = {"pictures": torch.stack(pictures), "psnr": torch.tensor([scores[name][: len(pictures)] for name in WAYS])}
    write_bytes(out / PICTURES, ordered(save(kept, {"format": "novelview", "shown": json.dumps(SHOWN)})))
    numbers = list(map(str, range(len(pairs))))
    found = {name: interval(np.array(own), numbers, cfg.bootstrap, cfg.seed) for name, own in scores.items()}
    own, transfer, swapped = (np.array(scores[name]) for name in WAYS)
    share = transferability(own, transfer, swapped, cfg.bootstrap, cfg.seed)
    return {**about, "reason": None, "pairs": len(pairs), **found, "transferability": share}


def pairs_of(index: Path, cache: FrameCache) -> list[tuple[EvalEntry, EvalEntry]]:
    """Return the pairs of the index of twins that the store has both rooms of, in order."""
    content, entries = read_json(index), {entry.scene: entry for entry in load_index(index)}
    numbers: dict[int, list[EvalEntry]] = {}
    for scene, entry in entries.items():
        if scene in cache.store.scenes:
            numbers.setdefault(int(content[scene]["pair"]), []).append(entry)
    return [(own[0], own[1]) for _, own in sorted(numbers.items()) if len(own) == 2]


@torch.no_grad()
def render_with(model: ViewModel, donor: Batch, own: Batch, amp: str) -> dict[str, Float[Tensor, "t 3 h w"]]:
    """Return the renders of the targets of `own` (batch of one) with each of `WAYS`' cameras."""
    find: Any = model
    assert own.target.images is not None and donor.target.images is not None
    with autocast(amp, own.context.c2w.device):
        mine = find.estimate_poses(own.context, own.target.images)
        theirs = find.estimate_poses(donor.context, donor.target.images)
        cameras = {"own": mine, "transfer": theirs, "swapped": mine.roll(-1, dims=1)}
        return {
            name: model.render_path(own.context, c2w, own.target.intrinsics)[0].float() for name, c2w in cameras.items()
        }


def quality(own: Batch, renders: dict[str, Tensor]) -> dict[str, float]:
    """Return the mean PSNR over the targets of the renders and of the trivial baselines."""
    truth = own.target.images
    assert truth is not None
    images = {**renders, **{name: function(own.context, own.target)[0] for name, function in BASELINES.items()}}
    return {name: float(psnr(one[None], truth).mean()) for name, one in images.items()}


def transferability(
    own: np.ndarray, transfer: np.ndarray, swapped: np.ndarray, resamples: int, seed: int
) -> dict[str, float] | None:
    """Return (transfer - swapped) / (own - swapped) of the means over pairs with its bootstrap interval.

    None where own cameras are not better than swapped ones beyond the interval: then no camera is used at all."""
    drawn = draws(len(own), resamples, seed)
    gains = drawn @ (own - swapped)
    if bounds(gains)[0] <= 0:
        return None
    low, high = bounds(drawn @ (transfer - swapped) / gains)
    mean = (transfer - swapped).mean() / (own - swapped).mean()
    return {"mean": round(float(mean), 6), "low": round(low, 6), "high": round(high, 6)}


def _picture(donor: Batch, own: Batch, renders: dict[str, Tensor]) -> Tensor:
    """Return the pictures `SHOWN` of one pair, uint8 [6 h w 3], of the middle target."""
    assert own.target.images is not None and own.context.images is not None and donor.target.images is not None
    middle = own.target.images.shape[1] // 2
    first = [donor.target.images[0, middle], own.context.images[0, 0], own.target.images[0, middle]]
    stack = torch.stack([*first, *(renders[name][middle] for name in WAYS)])
    return (stack.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().contiguous()
