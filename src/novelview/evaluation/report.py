"""One evaluation: every target of every entry scored once, whatever the batch, and the folder that holds the results:
rows.csv, gallery.safetensors, what further the model can tell, and summary.json, written last."""

import importlib.metadata
import importlib.util
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from novelview.config.schema import EvalConfig, ViewsConfig, size_name
from novelview.devices import Team
from novelview.errors import CheckpointError, DataError
from novelview.evaluation.clips import write_clips
from novelview.evaluation.gallery import FinishedBatches, Gallery, choose_samples
from novelview.evaluation.geometry import Truth, write_geometry, write_poses
from novelview.evaluation.metrics import Lpips, covered, flip, open_lpips, psnr, sharpness, ssim
from novelview.evaluation.protocol import BASELINES, SWAPPED, Splits, render_all
from novelview.evaluation.scores import LEVEL, ImageScores, groups, in_order, paired, write_rows
from novelview.evaluation.transfer import PICTURES, write_transfer
from novelview.files import write_json
from novelview.models.render import ViewModel
from novelview.scenes.batch import Batch, FrameCache
from novelview.scenes.dataset import EvalSet
from novelview.scenes.store import PackedStore
from novelview.timebox import BoxEnded, TimeBox

PROTOCOL = (
    "Every target of every index entry once; PSNR on images clamped to [0,1]; SSIM of scikit-image (11-pixel Gaussian "
    "window); LPIPS with VGG-16, version 0.1, without its weights FLIP; means over target images. Intervals: 95 %, "
    "bootstrap over scenes."
)
PACKAGES = ("torch", "numpy", "lpips")
OUTPUTS = ("summary.json", "rows.csv", "gallery.safetensors", "poses.json", "path_*.mp4")
OUTPUTS += ("geometry.json", "gaussians_*.ply", PICTURES)


@dataclass
class Subject:
    """What is evaluated: a model in evaluation mode on its device, what it is called, and how it sees views."""

    model: ViewModel
    name: str
    views: ViewsConfig


def evaluate_to(
    out: Path,
    subject: Subject,
    store: PackedStore,
    splits: Splits,
    cfg: EvalConfig,
    team: Team,
    facts: Mapping[str, Any],
    cache_mb: int = 512,
    progress: bool = False,
    truth: Truth | None = None,
    stamp: str = "",
    box: TimeBox | None = None,
    raw: Path | None = None,
) -> None:
    """Evaluate `subject` on `splits` into the folder `out`; the first process writes, and first removes what an earlier
    evaluation left. facts: further keys of summary.json. stamp: digest of all that the scores depend on; raises
    BoxEnded at the end of `box`, and the next call with that stamp goes on. raw: the data set's folder, for twins."""
    started, model, truth = time.monotonic(), subject.model, truth or Truth()
    if team.rank == 0:
        out.mkdir(parents=True, exist_ok=True)
        for path in (path for pattern in OUTPUTS for path in out.glob(pattern)):
            path.unlink()
    lpips, reason = open_lpips(cfg.lpips_weights, team.device)
    gallery = Gallery(model, splits, choose_samples(splits, cfg.gallery), truth)
    finished = FinishedBatches(out, stamp, box or TimeBox(), gallery, team)
    rows = evaluate(subject, store, splits, cfg, team, lpips, cache_mb, progress, finished)
    pictures = team.gather(gallery.found)
    if team.rank:
        return
    write_rows(out / "rows.csv", rows)
    gallery.write(out / "gallery.safetensors", pictures)
    given = model, FrameCache(store, subject.views, cache_mb)
    needs = ("context_poses", "target_poses", "target_images")
    versions = {name: importlib.metadata.version(name) for name in PACKAGES if importlib.util.find_spec(name)}
    about = {
        "model": subject.name,
        "resolution": size_name(subject.views),
        "given": {name: bool(getattr(model, f"needs_{name}")) for name in needs},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "protocol": PROTOCOL + (" Rendered under bf16 autocast." if cfg.amp == "bf16" else ""),
        "versions": {"python": platform.python_version(), **versions},
    }
    found = {
        "entries": splits.coverage(),
        "lpips_reason": reason,
        "poses": write_poses(out, *given, splits, cfg, team.device),
        "transfer": write_transfer(out, *given, raw, cfg, team.device),
        "videos": write_clips(out, *given, splits, cfg, team.device),
        "geometry": write_geometry(out, *given, truth, splits, cfg, team.device),
        "seconds": round(time.monotonic() - started, 1),
        "bootstrap": {"resamples": cfg.bootstrap, "seed": cfg.seed, "level": LEVEL},
        "groups": groups(rows, cfg.bootstrap, cfg.seed),
        "paired": paired(rows, subject.name, (*BASELINES, subject.name + SWAPPED), cfg.bootstrap, cfg.seed),
    }
    write_json(out / "summary.json", {**about, **facts, **found})
    finished.units.clear()


def evaluate(
    subject: Subject,
    store: PackedStore,
    splits: Splits,
    cfg: EvalConfig,
    ranks: Team | None = None,
    lpips: Lpips | None = None,
    cache_mb: int = 512,
    progress: bool = False,
    finished: FinishedBatches | None = None,
) -> list[ImageScores]:
    """Score the model, the baselines and the model with swapped poses on every target; each process returns all rows.
    finished: batches scored before; raises BoxEnded on all when it says on any that time is over with batches left."""
    team, rows, todo = ranks or Team(), [], []
    data = EvalSet(store, splits.entries, subject.views, cache_mb)
    for numbers in data.groups(cfg.batch_size, team.rank, team.world):
        known = finished.read(numbers) if finished else None
        rows += known or []
        todo += [numbers] if known is None else []
    hidden = None if progress and not team.rank else True  # None: no bar where the output is a file
    left = len(todo)
    for numbers, batch in tqdm(data.load(todo, team.device), "evaluate", len(todo), disable=hidden):
        renders = dict(render_all(subject.model, subject.name, batch, cfg))
        scored = list(_scores(splits, numbers, batch, renders, lpips))
        rows, left = rows + scored, left - 1
        if finished:
            finished.gallery.collect(numbers, batch, renders[subject.name])
            if finished.keep(numbers, scored) and left:
                break
    if finished and (waiting := sum(team.gather(left))):
        raise BoxEnded(f"{waiting} batches are left")
    return in_order((row for part in team.gather(rows) for row in part), splits.names)


def _scores(
    splits: Splits, numbers: Sequence[int], batch: Batch, renders: Mapping[str, Tensor], lpips: Lpips | None
) -> Iterator[ImageScores]:
    truth = batch.target.images
    assert truth is not None
    mask = batch.target.masks
    share = 1.0 if mask is None else mask.float().mean(dim=(-2, -1))
    if mask is not None and not mask.flatten(2).any(dim=-1).all():
        raise DataError(f"a target of {', '.join(batch.scene)} is masked as a whole; leave it out of the index")
    slow = {*BASELINES, *(name for name in renders if name.endswith(SWAPPED))}
    for name, images in renders.items():
        if not images.isfinite().all():
            raise CheckpointError(f"{name}: its renders of {', '.join(batch.scene)} are not finite; train it again")
        quality, likeness, edges = (metric(images, truth, mask).tolist() for metric in (psnr, ssim, sharpness))
        distance = (lpips(covered(images, truth, mask), truth) / share).tolist() if lpips else None
        # FLIP stands in where LPIPS cannot be had; of models alone, because it takes longer than all other scores.
        own = flip(covered(images, truth, mask), truth) / share if not lpips and name not in slow else None
        unknown = [[None] * len(line) for line in quality]
        distance, other = distance or unknown, unknown if own is None else own.tolist()
        for line, number in enumerate(numbers):
            entry = splits.entries[number]
            scores = list(zip(quality[line], likeness[line], distance[line], edges[line], other[line], strict=True))
            for place in splits.places[number]:
                for frame, values in zip(entry.target, scores, strict=True):
                    yield ImageScores(name, entry.scene, place.set, place.split, place.entry, frame, *values)
