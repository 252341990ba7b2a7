"""The jobs of a study: how many, which have their files already, and how long a device needs for the rest."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from novelview.config.plan import Plan
from novelview.config.runs import Run
from novelview.config.schema import size_name
from novelview.config.stages import TrainStage
from novelview.config.teachers import folder_of
from novelview.planning.flops import forward, parameters, training_step, vgg
from novelview.planning.throughput import Throughput

RENDERS = 5  # images scored a target: the model's, the one with a swapped pose, three trivial baselines
TARGETS = 3  # target views of an evaluation entry (specs/re10k_format.md section 4)


@dataclass
class Work:
    """One stage: jobs, those whose files are there, and device-hours of the others by class of device.

    uncounted: runs of models whose operations are not counted; measured: whether every hour rests on a measurement.
    """

    stage: str
    jobs: int = 0
    done: int = 0
    hours: dict[str, float] = field(default_factory=dict)
    uncounted: list[str] = field(default_factory=list)
    measured: bool = True

    def add(self, finished: bool) -> bool:
        """Count a job; return whether it is still to do."""
        self.jobs += 1
        self.done += finished
        return not finished


def works(plan: Plan, table: Throughput, devices: Iterable[str]) -> list[Work]:
    """Return the stages of a study in their order."""
    first, later = (plan.runs(trained=True, first=first) for first in (True, False))
    taught = {folder_of(plan, run) for run in plan.runs(trained=True)}
    found = [
        _files("download", [f"data/{plan.dataset}/raw/manifest.json"]),
        _files("poses", [f"data/{name}/raw/manifest.json" for name, estimator in plan.datasets.items() if estimator]),
        _files("preprocess", [f"data/{name}/packed/manifest.json" for name in plan.datasets]),
        _files("pointmaps", sorted(f"{folder}/manifest.json" for folder in taught if folder)),
        _files("adopt", [run.weights for run in plan.runs() if run.adopted]),
        _training("pretrain", plan, first, table, list(devices)),
        _training("finetune", plan, later, table, list(devices)),
        _evaluation(plan, table, list(devices)),
        _files("figures", [f"{plan.results}/figures/{name}.png" for name in plan.figures]),
        _files("tables", [f"{plan.results}/tables/{name}.md" for name in plan.tables]),
        _files("report", [f"{plan.results}/report/index.html"]),
    ]
    return [work for work in found if work.jobs]


def _files(stage: str, paths: list[str]) -> Work:
    return Work(stage, len(paths), sum(Path(path).is_file() for path in paths))


def _training(stage: str, plan: Plan, runs: list[Run], table: Throughput, devices: list[str]) -> Work:
    work = Work(stage, hours=dict.fromkeys(devices, 0.0))
    for run in runs:
        if not work.add(Path(run.weights).is_file()):
            continue
        config: TrainStage = plan.composed("train", run.name, run.phase, run.subset)
        step = training_step(config)
        if step is None:
            work.uncounted.append(run.name)
            continue
        for device in devices:
            seconds, measured = _trained(config, step, table, device)
            # Every process takes its own batch, so each device works through all steps.
            work.hours[device] += max(plan.gpus, 1) * seconds / 3600
            work.measured &= measured
    return work


def _trained(config: TrainStage, step: float, table: Throughput, device: str) -> tuple[float, bool]:
    """Return the seconds a device trains for at `step` operations a step, and whether they rest on a measurement."""
    name, count = config.model.name, parameters(config.model)
    amp = "tf32" if config.train.amp == "none" and config.train.tf32 else config.train.amp
    rate, measured = table.rate(device, name, size_name(config.views), amp, "train", count)
    idle = table.is_small(device, count) and not measured
    beside = table.small.step_seconds(name) if idle else 0.0
    return config.train.steps * (step / rate + beside) + (table.small.job_seconds if idle else 0.0), measured


def _evaluation(plan: Plan, table: Throughput, devices: list[str]) -> Work:
    work = Work("evaluate", hours=dict.fromkeys(devices, 0.0), measured=False)
    config: Any = plan.composed("evaluate")
    entries = entries_of(plan, table)
    for run, folder in ((one.run, one.folder) for one in plan.evaluations):
        if not work.add(Path(f"{folder}/summary.json").is_file()):
            continue
        train: TrainStage = plan.composed("train", run.name, run.phase, run.subset)
        own = forward(train.model, train.views, train.views.num_context, TARGETS)
        if own is None:
            work.uncounted.append(run.name)
            continue
        size = train.views.image_size, train.views.image_width or train.views.image_size
        lpips = 2 * RENDERS * TARGETS * vgg(*size) if Path(str(config.eval.lpips_weights)).is_file() else 0.0
        operations = entries * ((1 + config.eval.swap_poses) * own + lpips)
        count = parameters(train.model)
        for device in devices:
            rate, _ = table.rate(device, train.model.name, size_name(train.views), config.eval.amp, "evaluate", count)
            idle = table.small.job_seconds + entries * table.small.entry_ms / 1000
            beside = idle if table.is_small(device, count) else 0.0
            work.hours[device] += (operations / rate + beside) / 3600
    return work


def entries_of(plan: Plan, table: Throughput) -> int:
    """Return how many entries an evaluation of the study renders: the published indices', or one a scene and split."""
    source: Any = plan.composed("download").source
    splits: list[str] = plan.composed("evaluate").eval.splits
    if source.kind == "rooms":
        return (source.test_seen_scenes + source.test_new_scenes) * len(splits)
    if source.kind == "chunks":
        return sum(table.entries.get(split, 0) for split in splits)
    return int(getattr(source, "held_out", 0))
