"""The cost of a study: device-hours of its stages, disk, downloads, and what all of it rests on, in words."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from novelview.config.plan import Plan
from novelview.config.schema import sides
from novelview.downloads.registry import Entry, is_remote, needed, read_registry, targets
from novelview.planning.hours import Throughput, Work, parameters, read_throughput, works

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
        *("", *_stages(found, devices), "", *_basis(plan, table, found, devices)),
        *("", *_volumes("Disk when all is done", disk(plan, table))),
        *("", *_volumes("To fetch or to be given", downloads(plan))),
    ]
    return "\n".join(line.rstrip() for line in lines)


def _stages(found: Sequence[Work], devices: Sequence[str]) -> list[str]:
    def hours(work: Work, device: str) -> str:
        return _number(work.hours[device]) + ("" if work.measured else " ~") if device in work.hours else "-"

    rows = [["stage", "jobs", "there", *(f"{name} h" for name in devices)]]
    rows += [[work.stage, str(work.jobs), str(work.done), *(hours(work, name) for name in devices)] for work in found]
    counts = (str(sum(getattr(work, key) for work in found)) for key in ("jobs", "done"))
    sums = (_number(sum(work.hours.get(name, 0.0) for work in found)) for name in devices)
    return _aligned([*rows, ["all", *counts, *sums]])


def _basis(plan: Plan, table: Throughput, found: Sequence[Work], devices: Sequence[str]) -> list[str]:
    unit, small = "GPU" if plan.gpus else "CPU", table.small
    jobs = f"a training or evaluation job takes {max(plan.gpus, 1)} at a time, jobs in turn."
    lines = [f"h: {unit}-hours still to spend; {jobs}"]
    if any(work.hours and not work.measured for work in found):
        share = f"counted operations over an assumed share of the peak ({_shares(table.utilisation)})"
        lines.append(f"~: estimated, not measured: {share}.")
    if plan.gpus and any(table.is_small("gpu", size) for size in _parameters(plan)):
        steps = ", ".join(f"{name} {value:g}" for name, value in small.step_ms.items()) + " ms a training step"
        lines += [
            f"models of at most {small.parameters / 1e6:g} M parameters ({small.source}): "
            f"{_shares(small.utilisation)} of the peak, and",
            f"  {steps}, {small.entry_ms:g} ms an entry judged, {small.job_seconds:g} s a job beside.",
        ]
    own = [(name, table.devices[name]) for name in devices]
    lines += [f"{name}: {device.title}; {device.source}, {device.date}" for name, device in own]
    return [*lines, "there: outputs on disk; whether they are up to date is what snakemake -n says."]


def _shares(utilisation: Mapping[str, float]) -> str:
    return ", ".join(f"{stage} {value:.0%}" for stage, value in utilisation.items())


def _parameters(plan: Plan) -> list[int]:
    return [parameters(plan.composed("train", run.name, run.phase).model) for run in plan.runs()]


def _volumes(title: str, volumes: Sequence[Volume]) -> list[str]:
    if not volumes:
        return [f"{title}: nothing."]
    rows = [[volume.what, _size(volume.bytes), "there" if volume.present else ""] for volume in volumes]
    missing = [volume.bytes for volume in volumes if not volume.present]
    rows.append(["still to come", _size(sum(size or 0 for size in missing)) + " and more" * (None in missing), ""])
    return [f"{title}:", *_aligned(rows)]


def _size(count: float | None) -> str:
    if count is None:
        return "unknown"
    return f"{count / GIB:,.1f} GiB" if count >= GIB / 10 else f"{count / 2**20:,.1f} MiB"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}" if value < 1 else f"{value:.1f}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = ([cell.rjust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    return ["  ".join(["  " + row[0].ljust(widths[0]), *cells[1:]]) for row, cells in zip(rows, padded, strict=True)]


def disk(plan: Plan, table: Throughput) -> list[Volume]:
    """Return what lies on disk when the study is done."""
    chunks = chunk_bytes(plan, table)
    linked = plan.composed("download").source.kind == "chunks" and not is_remote(str(plan.path))
    names = ("raw", "chunks (used where they lie)" if linked else "chunks"), ("packed", "packed store")
    weights = [4 * size for size in _parameters(plan)]
    keep = plan.composed("train", plan.all[0].name, plan.all[0].phase).runtime.keep_checkpoints
    return [
        *(Volume(what, chunks, Path(f"data/{plan.dataset}/{key}/manifest.json").is_file()) for key, what in names),
        *pointmaps(plan),
        Volume(f"weights of {len(weights)} runs", sum(weights)),
        Volume("checkpoints while a run trains, each", keep * STATES * max(weights) if weights else None),
    ]


def pointmaps(plan: Plan) -> list[Volume]:
    """Return the teachers' pointmaps that runs with PM-Loss learn from, one folder a size (exact: float32); their bytes
    are known before the data are there where these are generated."""
    source, found = plan.composed("download").source, {}
    frames = source.train_scenes * source.frames if source.kind == "rooms" else 0
    for run, folder in [(one, folder) for one in plan.runs(trained=True) for folder in plan.pointmaps(one)]:
        config = plan.config_of(run)
        size = frames * 3 * math.prod(sides(config.views))
        size *= 4 if config.train.losses.pointmap.teacher == "exact" else 2
        there = Path(f"{folder}/manifest.json").is_file()
        found[folder] = Volume(f"pointmaps at {run.res} px", size or None, there)
    return list(found.values())


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
    return next((one for one in registry.values() if one.path == str(plan.path)), registry.get(plan.dataset))


def downloads(plan: Plan) -> list[Volume]:
    """Return everything the study fetches or must be given: the data, backbones, indices, published checkpoints."""
    registry, source = read_registry(), plan.composed("download").source
    known = targets(registry)
    trained = [plan.composed("train", run.name, run.phase) for run in plan.runs(trained=True)]
    names = [known[path] for config in trained for path in needed(config, registry)]
    names += [name for name in getattr(source, "indices", {}).values() if name in registry]
    names += [run.adopted for run in plan.runs() if run.adopted in registry]
    names += [known[path] for name in plan.estimators for path in plan.estimator_weights(name)]
    notes = dict.fromkeys(names, "")
    if lpips := known.get(plan.composed("evaluate").eval.lpips_weights):
        notes.setdefault(lpips, " (for LPIPS, which reads n/a without it)")
    entries = [(registry[name], note) for name, note in notes.items()]
    found = [Volume(f"{one.name}{note}", one.bytes, Path(one.path).exists()) for one, note in entries]
    entry = dataset_entry(plan) if source.kind == "chunks" else None
    if entry:
        ready = Path(str(plan.path)).is_dir() or Path(f"data/{plan.dataset}/raw/manifest.json").is_file()
        found.insert(0, Volume(entry.name, entry.bytes, ready))
    return found
