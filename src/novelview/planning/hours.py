"""Device hours of a study's jobs that have no files yet, at the rates of conf/throughput.yaml: measured where a row
says so, estimated elsewhere. Operations (2 per multiply-add) and parameters are counted by PyTorch on tensors of the
device `meta`, which have shapes and no values: convolutions, products and attention, all but a per cent or two."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from yaml import YAMLError

from novelview.config.compose import conf_dir
from novelview.config.models import ModelConfig
from novelview.config.plan import Plan
from novelview.config.schema import ViewsConfig, sides, size_name
from novelview.config.stages import TrainStage
from novelview.config.study import Run
from novelview.errors import ConfigError
from novelview.losses.photometric import PerceptualLoss, shapes
from novelview.models.depthsplat.model import DepthSplat
from novelview.models.registry import build
from novelview.models.render import ViewModel
from novelview.scenes.batch import Views

Answer = TypeVar("Answer")


def _remembered(count: Callable[..., Answer]) -> Callable[..., Answer]:
    """Keep answers in this process by the text of what was asked, because configurations have no hash."""
    known: dict[str, Answer] = {}

    @functools.wraps(count)
    def ask(*asked: Any) -> Answer:
        key = repr(asked)
        if key not in known:
            known[key] = count(*asked)
        return known[key]

    return ask


@_remembered
def _model(node: ModelConfig) -> ViewModel:
    with torch.device("meta"):
        return build(node.without_weights()).eval()


def _counted(call: Callable[[], object]) -> int:
    plain = sdpa_kernel(SDPBackend.MATH)  # the counter knows its products on every device, the fused form on some
    with torch.device("meta"), torch.no_grad(), plain, FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


@_remembered
def forward(node: ModelConfig, views: ViewsConfig, contexts: int, targets: int) -> int:
    """Return the operations of rendering `targets` views of one scene; of DepthSplat all but the splatting."""
    model, (height, width) = _model(node), sides(views)

    def blank(count: int) -> Views:
        return Views(torch.empty(1, count, 3, height, width), torch.empty(1, count, 4, 4), torch.empty(1, count, 4))

    if isinstance(model, DepthSplat):
        return _counted(lambda: model.encode(blank(contexts)))
    return _counted(lambda: model(blank(contexts), blank(targets)))


def training_step(cfg: TrainStage) -> int:
    """Return the operations of one training step of one process: forward, backward (twice a forward), recomputation and
    losses; a perceptual loss sees both images forward and the render backward."""
    views, train, losses = cfg.views, cfg.train, cfg.train.losses
    own = forward(cfg.model, views, views.num_context, views.num_target)
    perceptual = ((losses.perceptual > 0) + (losses.lpips > 0)) * views.num_target * vgg(*sides(views))
    passes = 4 if train.activation_checkpointing else 3
    return train.batch_size * train.grad_accum * (passes * own + 3 * perceptual)


@_remembered
def vgg(height: int, width: int) -> int:
    """Return the operations of the perceptual network on one image."""

    def one() -> None:
        layers = [(torch.empty(out, into, 3, 3), torch.empty(out)) for into, out in shapes()]
        PerceptualLoss(layers).features(torch.empty(1, 3, height, width))

    return _counted(one)


def parameters(node: ModelConfig) -> int:
    """Return how many parameters a model has."""
    return sum(parameter.numel() for parameter in _model(node).parameters())


RENDERS = 5  # images scored a target: the model's, the one with a swapped pose, three trivial baselines
TARGETS = 3  # target views of an evaluation entry (specs/re10k_format.md section 4)


@dataclass
class Device:
    """A class of devices: peaks in 10^12 operations a second, dense, and where the figures are from."""

    title: str = ""
    bf16_tflops: float = 0.0
    tf32_tflops: float = 0.0
    fp32_tflops: float = 0.0
    source: str = ""
    date: str = ""


@dataclass
class Measured:
    """What one process reached with one model at one image size, in 10^12 operations a second."""

    device: str = ""
    model: str = ""
    size: str = ""
    teraflops: float = 0.0
    source: str = ""
    date: str = ""


@dataclass
class Small:
    """What is assumed of GPUs that work on models of at most `parameters` parameters; times beside their products."""

    parameters: float = 0.0
    utilisation: dict[str, float] = field(default_factory=dict)
    step_ms: dict[str, float] = field(default_factory=dict)  # a training step's, by model; `default` for the others
    entry_ms: float = 0.0  # an evaluation entry's
    job_seconds: float = 0.0
    source: str = ""


@dataclass
class Throughput:
    """conf/throughput.yaml."""

    devices: dict[str, Device] = field(default_factory=dict)
    utilisation: dict[str, float] = field(default_factory=dict)
    small: Small = field(default_factory=Small)
    measured: list[Measured] = field(default_factory=list)
    jpeg_bytes_per_pixel: float = 0.0
    entries: dict[str, int] = field(default_factory=dict)

    def is_small(self, device: str, parameters: float | None) -> bool:
        """Tell whether a model of so many parameters is too small to keep a device busy."""
        return device != "cpu" and parameters is not None and parameters <= self.small.parameters

    def rate(
        self, device: str, model: str, size: str, amp: str, stage: str, parameters: float | None = None
    ) -> tuple[float, bool]:
        """Return operations a second of one process on one device, and whether they were measured; stage: train or
        evaluate; amp: bf16, fp16, tf32 or none; parameters: the model's, where they are known."""
        for row in self.measured if stage == "train" else ():
            if (row.device, row.model, row.size) == (device, model, size):
                return row.teraflops * 1e12, True
        own = self.devices[device]
        peak = {"none": own.fp32_tflops, "tf32": own.tf32_tflops}.get(amp, own.bf16_tflops)
        share = self.small.utilisation if self.is_small(device, parameters) else self.utilisation
        return peak * share[stage] * 1e12, False


def read_throughput() -> Throughput:
    """Read conf/throughput.yaml; raises ConfigError, one line, for a key that does not belong there."""
    path = conf_dir() / "throughput.yaml"
    try:
        merged: Any = OmegaConf.merge(OmegaConf.structured(Throughput), OmegaConf.load(path))
        return cast(Throughput, OmegaConf.to_object(merged))
    except (OSError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path}: {str(error).splitlines()[0]}") from None


@dataclass
class Work:
    """One stage: jobs, those whose files are there, and device-hours of the others by class of device; measured:
    whether every hour rests on a measurement."""

    stage: str
    jobs: int = 0
    done: int = 0
    hours: dict[str, float] = field(default_factory=dict)
    measured: bool = True


def works(plan: Plan, table: Throughput, devices: Sequence[str]) -> list[Work]:
    """Return the stages of a study in their order."""
    first, later = (plan.runs(trained=True, started=started) for started in (False, True))
    pointmaps = {f"{folder}/manifest.json" for run in plan.runs(trained=True) for folder in plan.pointmaps(run)}
    found = [
        _files("download", [f"data/{plan.dataset}/raw/manifest.json"]),
        _files("poses", [f"data/{name}/raw/manifest.json" for name, estimator in plan.datasets.items() if estimator]),
        _files("preprocess", [f"data/{name}/packed/manifest.json" for name in plan.datasets]),
        _files("pointmaps", sorted(pointmaps)),
        _files("adopt", [run.weights for run in plan.runs() if run.adopted]),
        _training("pretrain", plan, first, table, devices),
        _training("finetune", plan, later, table, devices),
        _evaluation(plan, table, devices),
        _files("figures", [f"{plan.results}/figures/{name}.png" for name in plan.figures]),
        _files("tables", [f"{plan.results}/tables/{name}.md" for name in plan.tables]),
        _files("report", [f"{plan.results}/report/index.html"]),
    ]
    return [work for work in found if work.jobs]


def _files(stage: str, paths: list[str]) -> Work:
    return Work(stage, len(paths), sum(Path(path).is_file() for path in paths))


def _training(stage: str, plan: Plan, runs: list[Run], table: Throughput, devices: Sequence[str]) -> Work:
    work = _files(stage, [run.weights for run in runs])
    work.hours = dict.fromkeys(devices, 0.0)
    for run in (run for run in runs if not Path(run.weights).is_file()):
        config: TrainStage = plan.composed("train", run.name, run.phase, run.subset)
        for device in devices:
            seconds, measured = _trained(config, training_step(config), table, device)
            # Every process takes its own batch, so each device works through all steps.
            work.hours[device] += max(plan.gpus, 1) * seconds / 3600
            work.measured &= measured
    return work


def _trained(config: TrainStage, step: float, table: Throughput, device: str) -> tuple[float, bool]:
    name, count = config.model.name, parameters(config.model)
    amp = "tf32" if config.train.amp == "none" and config.train.tf32 else config.train.amp
    rate, measured = table.rate(device, name, size_name(config.views), amp, "train", count)
    if measured or not table.is_small(device, count):
        return config.train.steps * step / rate, measured
    beside = table.small.step_ms.get(name, table.small.step_ms["default"]) / 1000
    return config.train.steps * (step / rate + beside) + table.small.job_seconds, measured


def _evaluation(plan: Plan, table: Throughput, devices: Sequence[str]) -> Work:
    summaries = {f"{one.folder}/summary.json": one.run for one in plan.evaluations}
    work = _files("evaluate", list(summaries))
    work.hours, work.measured = dict.fromkeys(devices, 0.0), False
    cfg, entries = plan.composed("evaluate").eval, entries_of(plan, table)
    images = 2 * RENDERS * TARGETS if Path(str(cfg.lpips_weights)).is_file() else 0  # that LPIPS compares
    for run in (run for path, run in summaries.items() if not Path(path).is_file()):
        train: TrainStage = plan.composed("train", run.name, run.phase, run.subset)
        rendering = forward(train.model, train.views, train.views.num_context, TARGETS)
        operations = entries * ((1 + cfg.swap_poses) * rendering + images * vgg(*sides(train.views)))
        count, idle = parameters(train.model), table.small.job_seconds + entries * table.small.entry_ms / 1000
        for device in devices:
            rate, _ = table.rate(device, train.model.name, size_name(train.views), cfg.amp, "evaluate", count)
            beside = idle if table.is_small(device, count) else 0.0
            work.hours[device] += (operations / rate + beside) / 3600
    return work


def entries_of(plan: Plan, table: Throughput) -> int:
    """Return how many entries an evaluation of the study renders: the published indices', or one a scene and split."""
    source, splits = plan.composed("download").source, plan.composed("evaluate").eval.splits
    if source.kind == "rooms":
        return (source.test_seen_scenes + source.test_new_scenes) * len(splits)
    rendered = sum(table.entries.get(split, 0) for split in splits)
    return rendered if source.kind == "chunks" else int(getattr(source, "held_out", 0))
