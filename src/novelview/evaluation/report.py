"""One evaluation folder: rows.csv, gallery.safetensors, what further the model can tell, and summary.json, the last."""

import importlib.metadata
import importlib.util
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from novelview.config.schema import EvalConfig, ViewsConfig, size_name
from novelview.evaluation import summary
from novelview.evaluation.bootstrap import LEVEL
from novelview.evaluation.camera_path import write_clips
from novelview.evaluation.gallery import Gallery, choose
from novelview.evaluation.geometry import Truth, write_geometry
from novelview.evaluation.kept import KeptBatches, open_units
from novelview.evaluation.metrics import open_lpips
from novelview.evaluation.poses import mean_errors, pose_paths, write_poses
from novelview.evaluation.protocol import Ranks, Task, evaluate
from novelview.evaluation.rows import Row, write_rows
from novelview.files import write_json
from novelview.scenes.batch import FrameCache
from novelview.scenes.store import PackedStore
from novelview.timebox import TimeBox

PROTOCOL = (
    "Every target of every index entry once; PSNR on images clamped to [0,1]; SSIM of scikit-image (11-pixel Gaussian "
    "window); LPIPS with VGG-16, version 0.1; means over target images. Intervals: 95 %, bootstrap over scenes."
)
PACKAGES = ("torch", "numpy", "lpips")
GEOMETRY = ("geometry.json", "gaussians_*.ply")


@dataclass
class Subject:
    """What is evaluated: a model in evaluation mode on its device, what it is called, and how it sees views."""

    model: Any
    name: str
    views: ViewsConfig


def evaluate_to(
    out: Path,
    subject: Subject,
    store: PackedStore,
    task: Task,
    cfg: EvalConfig,
    team: Ranks,
    facts: Mapping[str, Any],
    cache_mb: int = 512,
    progress: bool = False,
    truth: Truth | None = None,
    stamp: str = "",
    box: TimeBox | None = None,
) -> None:
    """Evaluate `subject` on `task` into the folder `out`; the first process writes.

    stamp: digest of all that the scores depend on. Raises BoxEnded when the time of `box` is over, after one batch at
    least; the next call with that stamp goes on.

    facts: further keys of summary.json (dataset, weights, digest, ...). What an earlier evaluation left in `out` is
    removed first, so the folder never mixes two. truth: the data set's exact depth, for models that predict depth.
    """
    started = time.monotonic()
    if team.rank == 0:
        _clear(out)
    lpips, reason = open_lpips(cfg.lpips_weights, team.device)
    gallery = Gallery(subject.model, task, choose(task, cfg.gallery), truth or Truth())
    given = (subject.model, subject.name, store, task, subject.views, cfg)
    kept = KeptBatches(open_units(out, stamp, team), box or TimeBox(), gallery, team)
    rows = evaluate(*given, team, lpips, cache_mb, [gallery.watch], progress, kept)
    pictures = team.gather(gallery.found)
    if team.rank:
        return
    write_rows(out / "rows.csv", rows)
    gallery.write(out / "gallery.safetensors", pictures)
    cache = FrameCache(store, subject.views, cache_mb)
    paths = _write_poses(out, subject, cache, task, cfg, team.device)
    clips = write_clips(out, subject.model, cache, task, cfg, team.device)
    geometry = write_geometry(out, subject.model, cache, truth or Truth(), task, cfg, team.device)
    found = {"entries": task.coverage(), "lpips_reason": reason, "poses": paths, "videos": clips, "geometry": geometry}
    found["seconds"] = round(time.monotonic() - started, 1)
    write_json(out / "summary.json", {**_about(subject, cfg), **facts, **found, **_scores(rows, subject.name, cfg)})
    kept.units.clear()


def _clear(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for pattern in ("summary.json", "rows.csv", "gallery.safetensors", "poses.json", "path_*.mp4", *GEOMETRY):
        for path in out.glob(pattern):
            path.unlink()


def _write_poses(
    out: Path, subject: Subject, cache: FrameCache, task: Task, cfg: EvalConfig, device: torch.device
) -> dict[str, float] | None:
    """Write poses.json where the model estimates cameras; return the mean errors."""
    if not hasattr(subject.model, "estimate_poses") or not cfg.pose_scenes:
        return None
    paths = pose_paths(subject.model, cache, task, cfg, device)
    write_poses(out / "poses.json", paths)
    return mean_errors(paths)


def _about(subject: Subject, cfg: EvalConfig) -> dict[str, Any]:
    model: nn.Module = subject.model
    return {
        "model": subject.name,
        "resolution": size_name(subject.views),
        "given": {
            "context_poses": bool(model.needs_context_poses),
            "target_poses": bool(model.needs_target_poses),
            "target_images": bool(model.needs_target_images),
        },
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "protocol": PROTOCOL + (" Rendered under bf16 autocast." if cfg.amp == "bf16" else ""),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES if importlib.util.find_spec(name)},
    }


def _scores(rows: Sequence[Row], name: str, cfg: EvalConfig) -> dict[str, Any]:
    return {
        "bootstrap": {"resamples": cfg.bootstrap, "seed": cfg.seed, "level": LEVEL},
        "groups": summary.groups(rows, cfg.bootstrap, cfg.seed),
        "paired": summary.paired(rows, name, cfg.bootstrap, cfg.seed),
    }
