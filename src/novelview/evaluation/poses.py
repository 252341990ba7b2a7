"""Cameras a model estimates from pictures alone, against the true ones: the figure of camera paths and its errors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from novelview.cameras.align import align_cameras, rotation_error_deg, translation_error
from novelview.config.schema import EvalConfig
from novelview.evaluation.protocol import Task, autocast
from novelview.files import write_json
from novelview.scenes.batch import FrameCache, Views, collate
from novelview.scenes.views import EvalEntry

MAX_FRAMES = 64  # longer scenes are thinned evenly: a path needs no more points


class Estimator(Protocol):
    """A model that estimates the camera of an image relative to its context views."""

    def estimate_poses(self, context: Views, images: Float[Tensor, "b v 3 h w"]) -> Float[Tensor, "b v 4 4"]: ...


def pose_paths(
    model: Estimator, cache: FrameCache, task: Task, cfg: EvalConfig, device: torch.device
) -> list[dict[str, Any]]:
    """Estimate the camera of every frame of up to `cfg.pose_scenes` scenes, from two context views of each.

    Each path is {scene, set, split, context, frames, true, estimated, rotation_deg, translation, spread}: frame
    numbers; camera-to-world matrices [n 4 4] in scene units normalised over the path, the estimates Sim(3)-aligned to
    the true ones; errors of every frame in degrees and scene units; and the root mean square distance of the true
    centres from their mean, the error of guessing that mean for every frame.
    """
    return [_path(model, cache, task, number, cfg, device) for number in choose_scenes(task, cfg.pose_scenes)]


def write_poses(path: Path | str, paths: Sequence[dict[str, Any]]) -> None:
    """Write what `pose_paths` returned as JSON, atomically."""
    write_json(path, list(paths))


def choose_scenes(task: Task, count: int) -> list[int]:
    """Choose one entry number a scene, its widest context, from up to `count` scenes: sets in turn, evenly spread."""
    widest: dict[str, int] = {}
    for number, entry in enumerate(task.entries):
        if entry.scene not in widest or _span(entry) > _span(task.entries[widest[entry.scene]]):
            widest[entry.scene] = number
    sets: dict[str, list[int]] = {}
    for number in widest.values():
        sets.setdefault(task.places[number][0].set, []).append(number)
    shares = [count // len(sets) + (turn < count % len(sets)) for turn in range(len(sets))]
    picked = [_evenly(members, share) for members, share in zip(sets.values(), shares, strict=True)]
    return [number for part in picked for number in part]


def _span(entry: EvalEntry) -> int:
    return max(entry.context) - min(entry.context)


def _evenly(members: Sequence[int], count: int) -> list[int]:
    count = min(count, len(members))
    return [members[int((turn + 0.5) * len(members) / count)] for turn in range(count)]


@torch.no_grad()
def _path(
    model: Estimator, cache: FrameCache, task: Task, number: int, cfg: EvalConfig, device: torch.device
) -> dict[str, Any]:
    entry, place = task.entries[number], task.places[number][0]
    frames = path_frames(cache, entry.scene)
    sample = cache.sample(entry.scene, [*entry.context, *frames], number)
    batch = collate([sample], len(entry.context)).to_batch(device)
    assert batch.target.images is not None
    with autocast(cfg.amp, device):
        parts = [model.estimate_poses(batch.context, part) for part in batch.target.images.split(cfg.batch_size, dim=1)]
    true = batch.target.c2w[0].double().cpu()
    estimated = align_cameras(torch.cat(parts, dim=1)[0].double().cpu(), true)
    centres = true[:, :3, 3]
    return {
        "scene": entry.scene,
        "set": place.set,
        "split": place.split,
        "context": list(entry.context),
        "frames": frames,
        "true": true.tolist(),
        "estimated": estimated.tolist(),
        "rotation_deg": rotation_error_deg(estimated, true).tolist(),
        "translation": translation_error(estimated, true).tolist(),
        "spread": float((centres - centres.mean(dim=0)).square().sum(dim=1).mean().sqrt()),
    }


def path_frames(cache: FrameCache, scene: str) -> list[int]:
    """Return the undamaged frames of a scene, thinned evenly to at most `MAX_FRAMES`."""
    bad = set(cache.store.bad(scene))
    sound = [frame for frame in range(cache.store.frames(scene)) if frame not in bad]
    step = max(1.0, len(sound) / MAX_FRAMES)
    return [sound[int(turn * step)] for turn in range(int(len(sound) / step))]


def mean_errors(paths: Sequence[dict[str, Any]]) -> dict[str, float] | None:
    """Return the mean rotation error [degrees] and the mean translation error relative to the spread of the path."""
    if not paths:
        return None
    rotation = [value for path in paths for value in path["rotation_deg"]]
    relative = [value / max(path["spread"], 1e-12) for path in paths for value in path["translation"]]
    means = {"rotation_deg": sum(rotation) / len(rotation), "translation_over_spread": sum(relative) / len(relative)}
    return {name: round(value, 4) for name, value in means.items()} | {"scenes": len(paths)}
