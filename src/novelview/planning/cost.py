"""The cost of a study in words: stages, device-hours, disk, downloads, and what all of it rests on."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from novelview.config.plan import Plan
from novelview.planning.flops import parameters
from novelview.planning.throughput import Throughput, read_throughput
from novelview.planning.volume import GIB, Volume, disk, downloads
from novelview.planning.work import Work, works

UNKNOWN = "unknown"


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
