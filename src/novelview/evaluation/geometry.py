"""Cameras, depth and surface that a model finds in pictures, against the true ones, where a data set has them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from novelview.cameras.align import fit_cameras, rotation_error_deg, translation_error
from novelview.cameras.camera import unproject
from novelview.config.schema import EvalConfig
from novelview.evaluation.protocol import Place, Splits, autocast, choose_scenes, load_context
from novelview.evaluation.scores import LEVEL, interval
from novelview.files import write_json
from novelview.losses.pointmap import nearest
from novelview.models.depthsplat.model import DepthSplat, GaussianScene
from novelview.scenes.batch import Batch, FrameCache, collate
from novelview.scenes.procedural.truth import ExactDepth
from novelview.splatting.gaussians import write_ply

MAX_FRAMES = 64  # longer scenes are thinned evenly: a path of cameras needs no more points
CLOSE = 1.25  # a depth is close when neither it nor the true one exceeds the other this many times
FINER = 2  # the true surface is sampled this many times as densely as the Gaussians, along each side
MEASURES = {
    "abs_rel": "mean |d - d*| / d* of the context views' depths d, true d*",
    "delta1": f"share of the depths with max(d / d*, d* / d) < {CLOSE}",
    "accuracy": "mean distance from the Gaussians' means to the true surface that the context views see, metres",
    "completeness": "mean distance from that surface to the means, metres",
    "chamfer": "mean of accuracy and completeness, metres",
}


def write_poses(
    out: Path, model: Any, cache: FrameCache, splits: Splits, cfg: EvalConfig, device: torch.device
) -> dict[str, float] | None:
    """Write poses.json, for up to `cfg.pose_scenes` scenes, where the model estimates cameras; return the mean errors.

    A path has true and estimated camera-to-world matrices [n 4 4] in scene units normalised over it, the estimates
    Sim(3)-aligned; errors in degrees and scene units; `spread`, the error of guessing the mean of the true centres."""
    if not hasattr(model, "estimate_poses") or not cfg.pose_scenes or not cache.store.posed:
        return None
    paths = [_path(model, cache, splits, number, cfg, device) for number in choose_scenes(splits, cfg.pose_scenes)]
    write_json(out / "poses.json", paths)
    return mean_errors(paths)


@torch.no_grad()
def _path(
    model: Any, cache: FrameCache, splits: Splits, number: int, cfg: EvalConfig, device: torch.device
) -> dict[str, Any]:
    entry, place = splits.entries[number], splits.places[number][0]
    sound = sorted(set(range(cache.store.frames(entry.scene))) - set(cache.store.bad(entry.scene)))
    step = max(1.0, len(sound) / MAX_FRAMES)
    frames = [sound[int(turn * step)] for turn in range(int(len(sound) / step))]
    sample = cache.sample(entry.scene, [*entry.context, *frames], number)
    batch = collate([sample], len(entry.context)).to_batch(device)
    assert batch.target.images is not None
    with autocast(cfg.amp, device):
        parts = [model.estimate_poses(batch.context, part) for part in batch.target.images.split(cfg.batch_size, dim=1)]
    true = batch.target.c2w[0].double().cpu()
    estimated = torch.cat(parts, dim=1)[0].double().cpu()
    estimated = fit_cameras(estimated, true).cameras(estimated)
    centres = true[:, :3, 3]
    path = {"scene": entry.scene, "set": place.set, "split": place.split, "context": list(entry.context)}
    path |= {"frames": frames, "true": true.tolist(), "estimated": estimated.tolist()}
    path |= {"rotation_deg": rotation_error_deg(estimated, true).tolist()}
    path |= {"translation": translation_error(estimated, true).tolist()}
    return path | {"spread": float((centres - centres.mean(dim=0)).square().sum(dim=1).mean().sqrt())}


def mean_errors(paths: Sequence[dict[str, Any]]) -> dict[str, float] | None:
    """Return the mean rotation error [degrees] and the mean translation error relative to the spread of the path."""
    if not paths:
        return None
    rotation = [value for path in paths for value in path["rotation_deg"]]
    relative = [value / max(path["spread"], 1e-12) for path in paths for value in path["translation"]]
    both = {"rotation_deg": rotation, "translation_over_spread": relative}
    return {name: round(sum(own) / len(own), 4) for name, own in both.items()} | {"scenes": len(paths)}


@dataclass(frozen=True)
class Truth:
    """The exact depth of a data set, or the reason why there is none."""

    depth: ExactDepth | None = None
    reason: str | None = "n/a (no exact depth given)"


def write_geometry(
    out: Path, model: Any, cache: FrameCache, truth: Truth, splits: Splits, cfg: EvalConfig, device: torch.device
) -> Mapping[str, Any] | None:
    """Write geometry.json (a row an entry) and the Gaussians of up to `cfg.ply_scenes` entries, evenly spread, as PLY;
    return {reason, measures, level, groups, ply}, its reason None if it has groups; None for a model without depth."""
    if not isinstance(model, DepthSplat):
        return None
    files, reason = [], truth.reason
    step = max(1, len(splits.entries) // max(1, cfg.ply_scenes))
    for number in range(0, len(splits.entries), step)[: cfg.ply_scenes]:
        entry = splits.entries[number]
        batch = load_context(cache, entry.scene, entry.context, number, device)
        files.append(f"gaussians_{len(files)}.ply")
        write_ply(out / files[-1], model.drawable(encode(model, batch, cfg.amp)).take(0))
    if truth.depth is not None and cache.cfg.pose_normalisation != "none":
        reason = "n/a (poses are normalised, so lengths are no metres)"
    if rows := [] if reason else _measure(model, cache, truth, splits, cfg, device):
        write_json(out / "geometry.json", rows)
    groups = geometry_groups(rows, cfg.bootstrap, cfg.seed)
    return {"reason": reason, "measures": MEASURES, "level": LEVEL, "groups": groups, "ply": files}


def _measure(
    model: DepthSplat, cache: FrameCache, truth: Truth, splits: Splits, cfg: EvalConfig, device: torch.device
) -> list[dict[str, Any]]:
    assert truth.depth is not None
    rows, known = [], {}  # contexts that several splits share are measured once
    for number, places in first_entries(splits, cfg.geometry_entries):
        entry = splits.entries[number]
        key = entry.scene, entry.context
        if key not in known:
            batch = load_context(cache, entry.scene, entry.context, number, device)
            known[key] = depth_errors(encode(model, batch, cfg.amp), batch, truth.depth)
        own = ({"set": place.set, "split": place.split, "entry": place.entry} for place in places)
        rows += [{"scene": entry.scene, **place, **known[key]} for place in own]
    return rows


def first_entries(splits: Splits, count: int) -> list[tuple[int, list[Place]]]:
    """Return (entry number, its places to report) of the first `count` entries of every set and split."""
    seen: Counter[tuple[str, str]] = Counter()
    picked: dict[int, list[Place]] = {}
    for number, place in ((number, place) for number, places in enumerate(splits.places) for place in places):
        seen[place.set, place.split] += 1
        if seen[place.set, place.split] <= count:
            picked.setdefault(number, []).append(place)
    return list(picked.items())


@torch.no_grad()
def encode(model: DepthSplat, batch: Batch, amp: str) -> GaussianScene:
    """Return what the model finds in the context views."""
    with autocast(amp, batch.context.c2w.device):
        return model.encode(batch.context)


def depth_errors(scene: GaussianScene, batch: Batch, truth: ExactDepth) -> dict[str, float]:
    """Return `MEASURES` of one scene (batch of one)."""
    height, width = scene.depths.shape[-2:]
    depth = scene.depths[0].double().cpu()
    true = true_depth(batch, truth, height, width).double()
    close = torch.maximum(depth / true, true / depth) < CLOSE
    found = {"abs_rel": float(((depth - true).abs() / true).mean()), "delta1": float(close.double().mean())}
    if scene.gaussians is not None:
        lens = batch.context.intrinsics[0].cpu() * FINER
        points = unproject(true_depth(batch, truth, height, width, FINER), batch.context.c2w[0].cpu(), lens)
        found |= distances(scene.gaussians.means[0].cpu(), points.movedim(1, -1).reshape(-1, 3))
    return {name: round(value, 6) for name, value in found.items()}


def true_depth(batch: Batch, truth: ExactDepth, height: int, width: int, finer: int = 1) -> Float[Tensor, "v h w"]:
    """Return the true z-depth of the context views of a batch of one, on a grid `finer` times as dense."""
    assert batch.context.frame is not None
    lens = batch.context.intrinsics[0].cpu() * finer
    return truth.depth(batch.scene[0], batch.context.frame[0].tolist(), lens, height * finer, width * finer)


def distances(means: Float[Tensor, "n 3"], true: Float[Tensor, "m 3"]) -> dict[str, float]:
    """Return accuracy, completeness and chamfer of a cloud against a surface."""
    pairs = (means.double(), true.double()), (true.double(), means.double())
    accuracy, completeness = (float((of - to[nearest(of, to)]).norm(dim=1).mean()) for of, to in pairs)
    return {"accuracy": accuracy, "completeness": completeness, "chamfer": (accuracy + completeness) / 2}


def geometry_groups(rows: Sequence[dict[str, Any]], resamples: int, seed: int) -> list[dict[str, Any]]:
    """Return {set, split, scenes, count, and mean and interval of every measure} for every set and split."""
    found: list[dict[str, Any]] = []
    for key in dict.fromkeys((row["set"], row["split"]) for row in rows):
        own = [row for row in rows if (row["set"], row["split"]) == key]
        scenes = [row["scene"] for row in own]
        values = {name: np.array([row[name] for row in own]) for name in MEASURES if name in own[0]}
        measures = {name: interval(column, scenes, resamples, seed) for name, column in values.items()}
        found.append({"set": key[0], "split": key[1], "scenes": len(set(scenes)), "count": len(own), **measures})
    return found
