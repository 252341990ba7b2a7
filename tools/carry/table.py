"""The short table at the end of a call: stages done and to go, minutes, images a second, MFU, PSNR so far."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from carry.carried import newest
from carry.studies import Mini
from novelview.config.stages import TrainStage
from novelview.config.study import Run
from novelview.files import read_json
from novelview.planning.hours import read_throughput

NONE = "-"


def table(mini: Mini, device: str, calls: Sequence[Mapping[str, Any]]) -> str:
    """Return the table; device: the name torch gives the GPU, empty on a CPU; calls: {minutes, ...} of all so far."""
    jobs = mini.jobs()
    lines = [["stage", "done", "to go"]]
    for stage in dict.fromkeys(job.stage for job in jobs):
        own = [job.done for job in jobs if job.stage == stage]
        lines.append([stage, str(sum(own)), str(len(own) - sum(own))])
    done = sum(job.done for job in jobs)
    lines.append(["all", str(done), str(len(jobs) - done)])
    runs = [["run", "state", "minutes", "images/s", "MFU", "PSNR"], *(_run(mini, run, device) for run in mini.runs)]
    spent = sum(call["minutes"] for call in calls)
    last = f"{len(calls)} calls, {spent:.1f} minutes in all, on {device or 'a CPU'}"
    return "\n".join([*_aligned(lines), "", *_aligned(runs), "", last])


def _run(mini: Mini, run: Run, device: str) -> list[str]:
    config = mini.owner[run.weights].config_of(run)
    log = mini.root / run.folder / "train.csv"
    rows = _rows(log) if mini.trained(run) else []
    state = "trained" if mini.trained(run) else "under way" if newest(mini, run) else "to do"
    cells = [run.place, state, *_speed(config, rows, device)]
    return [*cells, _psnr(mini.root / run.folder / "metrics.json")]


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def _speed(config: TrainStage, rows: Sequence[Mapping[str, str]], device: str) -> list[str]:
    """Return minutes, images a second (context and target views) and model FLOP utilisation of a finished training."""
    seconds = float(rows[-1]["seconds"]) if rows else 0.0
    if not seconds:
        return [NONE, NONE, NONE]
    from novelview.planning.hours import training_step  # takes torch, and seconds, to import

    steps = int(rows[-1]["step"])
    views = config.views.num_context + config.views.num_target
    images = steps * config.train.batch_size * config.train.grad_accum * views / seconds
    operations, peak = training_step(config), peak_of(device)
    used = f"{100 * operations * steps / seconds / peak:.1f} %" if operations and peak else NONE
    return [f"{seconds / 60:.1f}", f"{images:.0f}", used]


def peak_of(device: str) -> float | None:
    """Return the dense bf16 peak, operations a second, of a GPU that conf/throughput.yaml knows; None of another."""
    words = device.lower().split()
    for name, entry in read_throughput().devices.items():
        if name in words:
            return entry.bf16_tflops * 1e12
    return None


def _psnr(path: Path) -> str:
    """Return the mean PSNR [dB] on the split `full` of unseen rooms, or of what there is."""
    if not path.is_file():
        return NONE
    found: dict[str, dict[str, dict[str, float]]] = read_json(path)
    splits = found.get("new") or next(iter(found.values()), {})
    scores = splits.get("full") or next(iter(splits.values()), {})
    return f"{scores['psnr']:.2f}" if "psnr" in scores else NONE


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
