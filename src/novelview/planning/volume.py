"""What a study takes on disk, and what it has to fetch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from novelview.config.plan import Plan
from novelview.config.schema import sides
from novelview.config.teachers import folder_of
from novelview.downloads.address import is_remote
from novelview.downloads.registry import Entry, needed, read_registry, targets
from novelview.planning.flops import parameters
from novelview.planning.throughput import Throughput

STATES = 3  # a resumable state: the weights and two moments of AdamW, float32 all
GIB = 2**30


@dataclass(frozen=True)
class Volume:
    """One thing on disk or on its way there: bytes, None where they are not known; present: it is there already."""

    what: str
    bytes: float | None
    present: bool = False


def disk(plan: Plan, table: Throughput) -> list[Volume]:
    """Return what lies on disk when the study is done."""
    chunks = chunk_bytes(plan, table)
    linked = plan.composed("download").source.kind == "chunks" and not is_remote(str(plan.path))
    raw = "chunks (used where they lie)" if linked else "chunks"
    sizes = [parameters(plan.composed("train", run.name, run.phase).model) for run in plan.runs()]
    known = [4 * size for size in sizes if size]
    keep = plan.composed("train", plan.all[0].name, plan.all[0].phase).runtime.keep_checkpoints
    return [
        Volume(raw, chunks, Path(f"data/{plan.dataset}/raw/manifest.json").is_file()),
        Volume("packed store", chunks, Path(f"data/{plan.dataset}/packed/manifest.json").is_file()),
        *pointmaps(plan),
        Volume(f"weights of {len(sizes)} runs", sum(known) if len(known) == len(sizes) else None),
        Volume("checkpoints while a run trains, each", keep * STATES * max(known) if known else None),
    ]


def pointmaps(plan: Plan) -> list[Volume]:
    """Return the teachers' pointmaps that runs with PM-Loss learn from, one folder a size (exact: float32)."""
    found: dict[str, Volume] = {}
    for run in plan.runs(trained=True):
        folder = folder_of(plan, run)
        if folder:
            config = plan.composed("train", run.name, run.phase, run.subset)
            half = config.train.losses.pointmap.teacher != "exact"
            height, width = sides(config.views)
            size = _train_frames(plan) * 3 * height * width * (2 if half else 4)
            found[folder] = Volume(
                f"pointmaps at {run.res} px", size or None, Path(f"{folder}/manifest.json").is_file()
            )
    return list(found.values())


def _train_frames(plan: Plan) -> int:
    """Return the training frames of generated data, 0 where they are not known before the data are there."""
    source: Any = plan.composed("download").source
    return source.train_scenes * source.frames if source.kind == "rooms" else 0


def chunk_bytes(plan: Plan, table: Throughput) -> float | None:
    """Return the bytes of the study's chunks: those on disk, the registry's figure, or an estimate for rooms."""
    source: Any = plan.composed("download").source
    if source.kind == "rooms":
        scenes = source.train_scenes + source.test_seen_scenes + source.test_new_scenes
        return scenes * source.frames * source.height * source.width * table.jpeg_bytes_per_pixel
    if source.kind != "chunks":
        return None
    here = sum(file.stat().st_size for file in Path(str(plan.path)).glob("*/*.torch"))
    entry = dataset_entry(plan)
    return here or (entry.bytes if entry else None)


def dataset_entry(plan: Plan) -> Entry | None:
    """Return the registry's entry of the study's data: of its folder, or of its name."""
    registry = read_registry()
    own = [entry for entry in registry.values() if entry.path == str(plan.path)]
    return next(iter(own), registry.get(plan.dataset))


def downloads(plan: Plan) -> list[Volume]:
    """Return everything the study fetches or must be given: the data, backbones, indices, published checkpoints."""
    registry = read_registry()
    known = targets(registry)
    names = dict.fromkeys(
        known[path]
        for run in plan.runs(trained=True)
        for path in needed(plan.composed("train", run.name, run.phase), registry)
    )
    source: Any = plan.composed("download").source
    names |= dict.fromkeys(name for name in getattr(source, "indices", {}).values() if name in registry)
    names |= dict.fromkeys(run.adopted for run in plan.runs() if run.adopted in registry)
    names |= dict.fromkeys(known[path] for name in plan.estimators for path in plan.estimator_weights(name))
    found = [Volume(name, registry[name].bytes, Path(registry[name].path).exists()) for name in names]
    backbone = registry[known[lpips]] if (lpips := plan.composed("evaluate").eval.lpips_weights) in known else None
    if backbone and backbone.name not in names:
        what = f"{backbone.name} (for LPIPS, which reads n/a without it)"
        found.append(Volume(what, backbone.bytes, Path(backbone.path).exists()))
    entry = dataset_entry(plan) if source.kind == "chunks" else None
    if entry:
        ready = Path(str(plan.path)).is_dir() or Path(f"data/{plan.dataset}/raw/manifest.json").is_file()
        found.insert(0, Volume(entry.name, entry.bytes, ready))
    return found
