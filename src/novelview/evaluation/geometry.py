"""Depth and surface of predicted Gaussians against the exact ones, where a data set has exact depth."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from novelview.cameras.camera import unproject
from novelview.config.schema import EvalConfig, ViewsConfig
from novelview.evaluation.bootstrap import LEVEL
from novelview.evaluation.protocol import Task, autocast
from novelview.evaluation.summary import interval
from novelview.files import write_json
from novelview.losses.nearest import nearest
from novelview.models.depthsplat.model import DepthSplat, GaussianScene
from novelview.scenes.batch import Batch, FrameCache, collate
from novelview.scenes.procedural.truth import ExactDepth
from novelview.splatting.gaussians import Gaussians
from novelview.splatting.ply import write_ply

CLOSE = 1.25  # a depth is close when neither it nor the true one exceeds the other this many times
FINER = 2  # the true surface is sampled this many times as densely as the Gaussians, along each side
MEASURES = {
    "abs_rel": "mean |d - d*| / d* of the context views' depths d, true d*",
    "delta1": f"share of the depths with max(d / d*, d* / d) < {CLOSE}",
    "accuracy": "mean distance from the Gaussians' means to the true surface that the context views see, metres",
    "completeness": "mean distance from that surface to the means, metres",
    "chamfer": "mean of accuracy and completeness, metres",
}

Row = dict[str, Any]


@dataclass(frozen=True)
class Truth:
    """The exact depth of a data set, or the reason why there is none."""

    depth: ExactDepth | None = None
    reason: str | None = "n/a (no exact depth given)"

    def unfit(self, views: ViewsConfig) -> str | None:
        """Return why nothing can be compared, None where it can."""
        if self.depth is not None and views.pose_normalisation != "none":
            return "n/a (poses are normalised, so lengths are no metres)"
        return self.reason


def measure(
    model: DepthSplat, cache: FrameCache, truth: Truth, task: Task, cfg: EvalConfig, device: torch.device
) -> list[Row]:
    """Return {scene, set, split, entry, and `MEASURES`} of up to `cfg.geometry_entries` entries a set and split.

    Contexts that several splits share are measured once.
    """
    assert truth.depth is not None
    rows, known = [], {}
    for number, places in chosen(task, cfg.geometry_entries):
        entry = task.entries[number]
        key = entry.scene, entry.context
        if key not in known:
            batch = collate([cache.sample(entry.scene, entry.context, number)], len(entry.context)).to_batch(device)
            known[key] = errors(encoded(model, batch, cfg.amp), batch, truth.depth)
        rows += [
            {"scene": entry.scene, "set": one.set, "split": one.split, "entry": one.entry, **known[key]}
            for one in places
        ]
    return rows


def chosen(task: Task, count: int) -> list[tuple[int, list[Any]]]:
    """Return (entry number, its places to report) of the first `count` entries of every set and split."""
    left: dict[tuple[str, str], int] = {}
    picked = []
    for number, places in enumerate(task.places):
        kept = []
        for place in places:
            key = place.set, place.split
            left[key] = left.get(key, count) - 1
            kept += [place] if left[key] >= 0 else []
        picked += [(number, kept)] if kept else []
    return picked


@torch.no_grad()
def encoded(model: DepthSplat, batch: Batch, amp: str) -> GaussianScene:
    """Return what the model finds in the context views."""
    with autocast(amp, batch.context.c2w.device):
        return model.encode(batch.context)


def errors(scene: GaussianScene, batch: Batch, truth: ExactDepth) -> dict[str, float]:
    """Return `MEASURES` of one scene (batch of one)."""
    height, width = scene.depths.shape[-2:]
    depth = scene.depths[0].double().cpu()
    true = exact(batch, truth, height, width).double()
    found = {"abs_rel": float(((depth - true).abs() / true).mean())}
    found["delta1"] = float((torch.maximum(depth / true, true / depth) < CLOSE).double().mean())
    if scene.gaussians is not None:
        found |= distances(scene.gaussians.means[0].cpu(), surface(batch, truth, height, width))
    return {name: round(value, 6) for name, value in found.items()}


def exact(batch: Batch, truth: ExactDepth, height: int, width: int, finer: int = 1) -> Float[Tensor, "v h w"]:
    """Return the true z-depth of the context views of a batch of one, on a grid `finer` times as dense."""
    assert batch.context.frame is not None
    lens = batch.context.intrinsics[0].cpu() * finer
    return truth.depth(batch.scene[0], batch.context.frame[0].tolist(), lens, height * finer, width * finer)


def surface(batch: Batch, truth: ExactDepth, height: int, width: int) -> Float[Tensor, "n 3"]:
    """Return points of the true surface that the context views of a batch of one see."""
    lens = batch.context.intrinsics[0].cpu() * FINER
    points = unproject(exact(batch, truth, height, width, FINER), batch.context.c2w[0].cpu(), lens)
    return points.movedim(1, -1).reshape(-1, 3)


def distances(means: Float[Tensor, "n 3"], true: Float[Tensor, "m 3"]) -> dict[str, float]:
    """Return accuracy, completeness and chamfer of a cloud against a surface."""
    one, other = means.double(), true.double()
    accuracy, completeness = (
        float((of - to[nearest(of, to)]).norm(dim=1).mean()) for of, to in ((one, other), (other, one))
    )
    return {"accuracy": accuracy, "completeness": completeness, "chamfer": (accuracy + completeness) / 2}


def groups(rows: Sequence[Row], resamples: int, seed: int) -> list[dict[str, Any]]:
    """Return {set, split, scenes, count, and mean and interval of every measure} for every set and split."""
    found = []
    for key in dict.fromkeys((row["set"], row["split"]) for row in rows):
        own = [row for row in rows if (row["set"], row["split"]) == key]
        scenes = [row["scene"] for row in own]
        head = {"set": key[0], "split": key[1], "scenes": len(set(scenes)), "count": len(own)}
        scores = {
            name: interval(np.array([row[name] for row in own]), scenes, resamples, seed)
            for name in MEASURES
            if name in own[0]
        }
        found.append({**head, **scores})
    return found


def write_geometry(
    out: Path, model: Any, cache: FrameCache, truth: Truth, task: Task, cfg: EvalConfig, device: torch.device
) -> Mapping[str, Any] | None:
    """Write geometry.json (a row an entry) and PLY files into `out`; return what the summary says, None without depth.

    The summary has {reason, measures, level, groups, ply}; reason is None where there are groups.
    """
    if not isinstance(model, DepthSplat):
        return None
    files = write_plys(out, model, cache, task, cfg, device)
    reason = truth.unfit(cache.cfg)
    rows = [] if reason else measure(model, cache, truth, task, cfg, device)
    if rows:
        write_json(out / "geometry.json", rows)
    found = groups(rows, cfg.bootstrap, cfg.seed)
    return {"reason": reason, "measures": MEASURES, "level": LEVEL, "groups": found, "ply": files}


def write_plys(
    out: Path, model: DepthSplat, cache: FrameCache, task: Task, cfg: EvalConfig, device: torch.device
) -> list[str]:
    """Write the Gaussians of up to `cfg.ply_scenes` entries, evenly spread, as gaussians_<n>.ply; return the names."""
    names = []
    for number in range(0, len(task.entries), max(1, len(task.entries) // max(1, cfg.ply_scenes)))[: cfg.ply_scenes]:
        entry = task.entries[number]
        batch = collate([cache.sample(entry.scene, entry.context, number)], len(entry.context)).to_batch(device)
        gaussians: Gaussians = model.drawable(encoded(model, batch, cfg.amp))
        names.append(f"gaussians_{len(names)}.ply")
        write_ply(out / names[-1], gaussians.take(0))
    return names
