"""The cost of a study: device-hours of its stages, disk, downloads, and what all of it rests on, in words."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from novelview.config.plan import Plan
from novelview.config.schema import sides
from novelview.downloads.registry import Entry, is_remote, needed, read_registry, targets
from novelview.planning.flops import parameters
from novelview.planning.hours import Throughput, Work, read_throughput, works

UNKNOWN = "unknown"
STATES = 3  # a resumable state: the weights and two moments of AdamW, float32 all
GIB = 2**30


@dataclass(frozen=True)
class Volume:
    """One thing on disk or on its way there: bytes, None where they are not known; present: it is there already."""

    what: str
    bytes: float | None
    present: bool = False


def cost(plan: Plan) -> str:
    """Return the plan's cost as text, a table a question. Nothing is fetched, and no data need be there."""
    table = read_throughput()
    devices = [name for name in table.devices if (name == "cpu") == (plan.gpus == 0)]
    found = works(plan, table, devices)
    models, subsets, sizes = (dict.fromkeys(getattr(run, key) for run in plan.all) for key in ("name", "subset", "res"))
    lines = [
        f"Plan of study {plan.study.name} at scale {plan.scale} on {plan.dataset}: models {', '.join(models)}; "
        f"subsets {', '.join(subsets)}; sizes {', '.join(sizes)} px",
        "",
        *_stages(found, devices),
        "",
        *_basis(plan, table, found, devices),
        "",
        *_volumes("Disk when all is done", disk(plan, table)),
        "",
        *_volumes("To fetch or to be given", downloads(plan)),
    ]
    return "\n".join(line.rstrip() for line in lines)


def plan_text(config: Mapping[str, Any]) -> str:
    """Return the cost of what `snakemake --config` would run; raises ConfigError for a mistake in it."""
    return cost(Plan(config))


def announce(plan: Plan) -> None:
    """Print the cost of a plan to standard error, once, before anyone spends it."""
    print(f"{cost(plan)}\n", file=sys.stderr, flush=True)


def _stages(found: Sequence[Work], devices: Sequence[str]) -> list[str]:
    rows = [["stage", "jobs", "there", *(f"{name} h" for name in devices)]]
    for work in found:
        rows.append([work.stage, str(work.jobs), str(work.done), *(_hours(work, name) for name in devices)])
    sums = [sum(work.hours.get(name, 0.0) for work in found) for name in devices]
    counts = (str(sum(getattr(work, key) for work in found)) for key in ("jobs", "done"))
    rows.append(["all", *counts, *(_number(value) for value in sums)])
    return _aligned(rows)


def _hours(work: Work, device: str) -> str:
    if device not in work.hours:
        return "-"
    return _number(work.hours[device]) + ("" if work.measured else " ~") + (" + ?" if work.uncounted else "")


def _basis(plan: Plan, table: Throughput, found: Sequence[Work], devices: Sequence[str]) -> list[str]:
    """Say what the hours are: of how many devices, measured or estimated, and what is not in them."""
    gpus = max(plan.gpus, 1)
    unit = "GPU" if plan.gpus else "CPU"
    lines = [f"h: {unit}-hours still to spend; a training or evaluation job takes {gpus} at a time, jobs in turn."]
    if any(work.hours and not work.measured for work in found):
        share = ", ".join(f"{stage} {value:.0%}" for stage, value in table.utilisation.items())
        lines.append(f"~: estimated, not measured: counted operations over an assumed share of the peak ({share}).")
    lines += _small(plan, table)
    uncounted = sorted({name for work in found for name in work.uncounted})
    if uncounted:
        lines.append(f"?: operations of {', '.join(uncounted)} are not counted.")
    for name in devices:
        lines.append(f"{name}: {table.devices[name].title}; {table.devices[name].source}, {table.devices[name].date}")
    lines.append("there: outputs on disk; whether they are up to date is what snakemake -n says.")
    return lines


def _small(plan: Plan, table: Throughput) -> list[str]:
    """Say what is assumed of small models, where the plan has any on GPUs."""
    counts = [parameters(plan.composed("train", run.name, run.phase).model) for run in plan.runs()]
    if not plan.gpus or not any(table.is_small("gpu", count) for count in counts):
        return []
    small, names = table.small, ", ".join(f"{name} {value:g}" for name, value in table.small.step_ms.items())
    share = ", ".join(f"{stage} {value:.0%}" for stage, value in small.utilisation.items())
    return [
        f"models of at most {small.parameters / 1e6:g} M parameters ({small.source}): {share} of the peak, and",
        f"  {names} ms a training step, {small.entry_ms:g} ms an entry judged, {small.job_seconds:g} s a job beside.",
    ]


def _volumes(title: str, volumes: Sequence[Volume]) -> list[str]:
    rows = [[volume.what, _size(volume.bytes), "there" if volume.present else ""] for volume in volumes]
    missing = sum(volume.bytes or 0 for volume in volumes if not volume.present)
    unknown = any(volume.bytes is None and not volume.present for volume in volumes)
    rows.append(["still to come", _size(missing) + (" and more" if unknown else ""), ""])
    return [f"{title}:", *_aligned(rows)] if volumes else [f"{title}: nothing."]


def _size(count: float | None) -> str:
    if count is None:
        return UNKNOWN
    return f"{count / GIB:,.1f} GiB" if count >= GIB / 10 else f"{count / 2**20:,.1f} MiB"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}" if value < 1 else f"{value:.1f}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  "
        + row[0].ljust(widths[0])
        + "".join("  " + cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]


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
        for folder in plan.pointmaps(run):
            config = plan.config_of(run)
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
