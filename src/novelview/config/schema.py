"""Configuration nodes of processing, training, evaluation and the stages; defaults are the published values.

Nothing in this package imports torch: figures, the Snakefile and the command lines read configurations in milliseconds.
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from novelview.config.models import ModelConfig
from novelview.config.sources import SourceConfig


@dataclass
class RuntimeConfig:
    """How to run, never what to compute: this node is left out of every digest."""

    device: str = "auto"  # auto | cpu | cuda
    threads: int = 0  # torch intra-op threads; 0 keeps torch's choice
    workers: int = 0  # loader or conversion processes; 0 runs in the main process
    cache_mb: int = 512  # decoded, resized frames kept in memory by the training loader
    log_every: int = 50
    checkpoint_seconds: float = 600.0  # wall-clock distance of resumable checkpoints
    keep_checkpoints: int = 2
    wandb: str = "offline"  # online | offline | disabled
    progress: bool = True


@dataclass
class PackConfig:
    """Chunks to packed store."""

    max_bad_frames: int = 0  # damaged frames tolerated over the whole data set before the stage fails
    max_bad_chunks: int = 0


@dataclass
class AugmentConfig:
    """Per-scene augmentations, the same for all views of a sample (demo_budget.md section 5); off as published."""

    mirror: bool = False
    channels: bool = False
    swap_context: bool = False


@dataclass
class ViewsConfig:
    """Which frames make a sample and how they are resized (specs/uplvsm.md section 9)."""

    image_size: int = 224
    patch_size: int = 14
    square_crop: bool = True
    portrait: str = "fit"  # fit: the shorter side becomes image_size | reference: quirk, see docs/quirks.md
    num_views: int = 8
    num_context: int = 2
    num_target: int = 6
    min_frame_dist: int = 25
    max_frame_dist: int = 192
    target_has_input: bool = True
    scene_scale_factor: float = 1.35
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass
class LossConfig:
    """Weights of the photometric losses (specs/uplvsm.md section 6)."""

    mse: float = 1.0
    perceptual: float = 0.5
    lpips: float = 0.0
    lpips_weights: str | None = "pretrained/vgg16-397923af.pth"  # backbone, needed when lpips > 0
    vgg_weights: str | None = "pretrained/imagenet-vgg-verydeep-19.mat"  # needed when perceptual > 0


@dataclass
class TrainConfig:
    """The optimisation recipe (specs/uplvsm.md section 8)."""

    seed: int = 777
    steps: int = 100_000
    batch_size: int = 16  # scenes a process
    grad_accum: int = 1
    lr: float = 4e-4
    warmup: int = 4_000
    schedule: str = "cosine"  # cosine | linear | constant
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    allowed_gradnorm_factor: float = 4.0  # a norm above clip_norm times this skips the update
    amp: str = "bf16"  # bf16 | fp16 | none
    tf32: bool = True
    compile: bool = False
    activation_checkpointing: bool = True
    extra_iteration: bool = True  # quirk: the reference loop runs steps + 1 iterations, see docs/quirks.md
    schedule_on_skip: bool = True  # quirk: the schedule advances on skipped updates, see docs/quirks.md
    losses: LossConfig = field(default_factory=LossConfig)


@dataclass
class EvalConfig:
    """Evaluation protocol (specs/uplvsm.md section 10)."""

    splits: list[str] = field(default_factory=lambda: ["small", "medium", "large", "extrapolation", "full"])
    batch_size: int = 8
    amp: str = "none"  # none | bf16 (the reference evaluates inside bf16 autocast, see docs/quirks.md)
    bootstrap: int = 1000
    seed: int = 0
    lpips_weights: str | None = "pretrained/vgg16-397923af.pth"  # backbone; absent: the column reads n/a
    gallery: int = 6  # samples whose pictures are kept for the figures
    swap_poses: bool = True  # also score renders made with another target's pose
    video_frames: int = 24  # frames between the two context poses
    video_scenes: int = 2
    pose_scenes: int = 6  # scenes whose cameras are estimated along their whole path, by models that estimate them


@dataclass
class StudyData:
    """The data of a study at one scale."""

    source: str = MISSING
    dataset: str = MISSING
    eval: str = MISSING
    path: str | None = None


@dataclass
class Study:
    """One file of conf/study."""

    name: str = MISSING
    title: str = ""
    published: str | None = None
    models: list[str] = field(default_factory=list)
    figures: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=lambda: ["results_table"])
    phases: list[str] = field(default_factory=list)
    data: dict[str, StudyData] = field(default_factory=dict)
    overrides: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class DownloadStage:
    """Stage `download`: any source to chunks. `io.out` gets train/, test/, indices/ and manifest.json."""

    scale: str = "demo"
    source: SourceConfig = MISSING
    path: str | None = None
    dataset: str = "${source.name}"
    io: dict[str, Any] = field(default_factory=dict)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


@dataclass
class PreprocessStage:
    """Stage `preprocess`: chunks to the packed store."""

    scale: str = "demo"
    dataset: str = "rooms"
    pack: PackConfig = field(default_factory=PackConfig)
    io: dict[str, Any] = field(default_factory=dict)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


@dataclass
class TrainStage:
    """Stages `pretrain` and `finetune`: the same body, the phase chooses the recipe."""

    scale: str = "demo"
    phase: str = "pretrain"  # pretrain | finetune
    dataset: str = "rooms"
    subset: str = "full"
    model: ModelConfig = MISSING
    views: ViewsConfig = field(default_factory=ViewsConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    io: dict[str, Any] = field(default_factory=dict)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


@dataclass
class EvaluateStage:
    """Stage `evaluate`: per-target rows, summary, pictures and videos of one set of weights."""

    scale: str = "demo"
    dataset: str = "rooms"
    eval: EvalConfig = field(default_factory=EvalConfig)
    io: dict[str, Any] = field(default_factory=dict)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


@dataclass
class FiguresStage:
    """Stage `figures`: one figure or table from finished results."""

    scale: str = "demo"
    study: Study = MISSING
    figure: str = MISSING
    io: dict[str, Any] = field(default_factory=dict)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


@dataclass
class ReportStage:
    """Stage `report`: the self-contained HTML page of a study."""

    scale: str = "demo"
    study: Study = MISSING
    io: dict[str, Any] = field(default_factory=dict)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
