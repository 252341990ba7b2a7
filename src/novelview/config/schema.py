"""Configuration nodes of processing, training, evaluation and the stages; defaults are the published values.

Nothing in this package imports torch: figures, the Snakefile and the command lines read configurations in milliseconds.
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from novelview.config.losses import LossConfig
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
    # a stage that long at work saves what it has, ends with status 4 and goes on when called again; 0: no limit
    max_minutes: float = 0.0
    stop_at: float = 0.0  # the same at this Unix time (seconds); 0: never
    wandb: str = "offline"  # online | offline | disabled; the key is WANDB_API_KEY or `wandb login`, never a key here
    wandb_pictures: int = 10  # log rows between pictures sent to wandb; 0: none
    progress: bool = True


@dataclass
class PackConfig:
    """Chunks to packed store."""

    max_bad_frames: int = 0  # damaged frames tolerated over the whole data set before the stage fails
    max_bad_chunks: int = 0


@dataclass
class AugmentConfig:
    """Per-scene augmentations, the same for all views of a sample (demo_budget.md section 5); off as published."""

    mirror: bool = False  # half of the samples, as DepthSplat does
    channels: bool = False
    swap_context: bool = False


@dataclass
class ViewsConfig:
    """Which frames make a sample and how they are resized (specs/uplvsm.md section 9, specs/lact.md section 8)."""

    image_size: int = 224  # height in pixels; also the width unless image_width says otherwise
    image_width: int = 0  # width in pixels where it differs from the height (resize=cover); 0: square
    patch_size: int = 14
    # height: to image_size, then square_crop | cover: scaled to cover height x width, cropped | centred: as cover, fx
    # and fy by the rounded sizes, cx and cy keeping their share of the picture (DepthSplat)
    resize: str = "height"
    filter: str = "lanczos"  # lanczos | bilinear (PM-Loss)
    square_crop: bool = True
    portrait: str = "fit"  # fit: the shorter side becomes image_size | reference: quirk, see docs/quirks.md
    # interval: contexts are its 2 ends | random: first num_context in, last num_target out | bounded, boundedv2:
    # DepthSplat's, whose intervals grow with training, the second with min_context to num_context contexts
    sampler: str = "interval"
    num_views: int = 8
    num_context: int = 2
    num_target: int = 6
    min_frame_dist: int = 25
    max_frame_dist: int = 192
    start_min_dist: int = 0  # bounded, boundedv2: min_frame_dist at step 0, where dist_steps is above 0
    start_max_dist: int = 0  # max_frame_dist at step 0
    dist_steps: int = 0  # steps in which the distances go from their first to their last values; 0: at once
    min_context: int = 0  # boundedv2: fewest context views of a sample, num_context the most; 0: always num_context
    target_has_input: bool = True
    pose_normalisation: str = "scene"  # scene: mean frame of all views, scaled | none: poses as they come (objects)
    scene_scale_factor: float = 1.35  # largest coordinate of a camera centre becomes 1 / this; LaCT takes 1
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass
class TrainConfig:
    """The optimisation recipe (specs/uplvsm.md section 8)."""

    seed: int = 777
    steps: int = 100_000
    batch_size: int = 16  # scenes a process
    grad_accum: int = 1
    lr: float = 4e-4
    warmup: int = 4_000
    lr_pretrained: float = 0.0  # peak rate of parameters with `pretrained` in their name; 0: lr; DepthSplat: 2e-6
    schedule: str = "cosine"  # cosine | linear | constant | onecycle: PyTorch's, which has its own warm-up
    onecycle_rise: float = 0.01  # share of the onecycle schedule in which the rate rises
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.05
    decay: str = "matrices"  # matrices: parameters of one dimension are not decayed | all
    clip_norm: float = 1.0
    clip_from: int = 0  # first step (0-based) whose gradient is clipped, and skipped when too large; LaCT: 1000
    allowed_gradnorm_factor: float = 4.0  # a norm above clip_norm times this skips the update; 0: none is skipped
    amp: str = "bf16"  # bf16 | fp16 | none
    tf32: bool = True
    compile: bool = False
    activation_checkpointing: bool = True
    extra_iteration: bool = True  # quirk: the reference loop runs steps + 1 iterations, see docs/quirks.md
    schedule_on_skip: bool = True  # quirk: the schedule advances on skipped updates, see docs/quirks.md
    losses: LossConfig = field(default_factory=LossConfig)


@dataclass
class EvalConfig:
    """Evaluation protocol (specs/uplvsm.md section 10, for chosen views specs/lact.md section 9)."""

    splits: list[str] = field(default_factory=lambda: ["small", "medium", "large", "extrapolation", "full"])
    select: str = "index"  # index: the views of `splits` | random | uniform (in frame order) | kmeans (camera centres)
    num_context: int = 2  # context views a scene, unless select=index
    context_counts: list[int] = field(default_factory=list)  # several numbers instead: a split each, the same targets
    num_target: int = 0  # target views a scene, unless select=index; 0: all that are left
    num_views: int = 0  # frames drawn at random from each scene before selecting; 0: all of them
    batch_size: int = 8
    amp: str = "none"  # none | bf16 (the reference evaluates inside bf16 autocast, see docs/quirks.md)
    bootstrap: int = 1000
    seed: int = 0
    lpips_weights: str | None = "pretrained/vgg16-397923af.pth"  # backbone; absent: the column reads n/a
    gallery: int = 6  # samples whose pictures are kept for the figures
    swap_poses: bool = True  # also score renders made with another target's pose
    video_frames: int = 24  # frames from each context pose to the next
    video_fps: int = 30
    video_loop: bool = True  # the path returns to the first context
    video_order: bool = False  # contexts in the order of the nearest next, not as they come
    video_ease: bool = False  # speed up from each context and slow down to the next, as a loop without a jerk
    video_scenes: int = 2
    geometry_entries: int = 32  # entries a set and split whose depth is compared with the exact one, where both exist
    ply_scenes: int = 1  # scenes whose Gaussians are written as PLY files, by models that predict them
    pose_scenes: int = 6  # scenes whose cameras are estimated along their whole path, by models that estimate them


@dataclass
class StudyData:
    """The data of a study at one scale."""

    source: str = MISSING
    dataset: str = MISSING
    eval: str = MISSING
    path: str | None = None


@dataclass
class Variant:
    """A run of a study under a name of its own: a model, perhaps of another size or recipe, with further overrides."""

    model: str = MISSING
    size: str = ""  # another size of conf/models, size=<scale>/<size>; empty: the model's
    recipe: str = ""  # another recipe of conf/models, recipe=<scale>/<recipe>/<phase>; empty: the model's
    phases: list[str] = field(default_factory=list)  # the first ones of the study's; empty: all of them
    train: list[str] = field(default_factory=list)  # of stage train


@dataclass
class Study:
    """One file of conf/study."""

    name: str = MISSING
    title: str = ""
    published: str | None = None  # a key of evaluation/published.yaml
    variants: dict[str, Variant] = field(default_factory=dict)  # runs that are not a model as it stands
    models: list[str] = field(default_factory=list)  # the runs: models of conf/models, or variants
    models_at: dict[str, list[str]] = field(default_factory=dict)  # scale -> its runs, where they are not `models`
    figures: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=lambda: ["results_table"])
    phases: list[str] = field(default_factory=list)  # the first from nothing, each later one from the one before
    subsets: dict[str, list[str]] = field(default_factory=dict)  # scale -> training subsets; absent: full
    extras: list[str] = field(default_factory=list)  # files below the study's results that the report waits for
    poses: dict[str, list[str]] = field(default_factory=dict)  # scale -> estimators: evaluations on their cameras, too
    pose_free: list[str] = field(default_factory=list)  # runs that take no poses: judged on the given cameras alone
    data: dict[str, StudyData] = field(default_factory=dict)
    releases: dict[str, str] = field(default_factory=dict)  # run -> what its last phase is released as
    showcase: dict[str, StudyData] = field(default_factory=dict)  # scale -> data to show released checkpoints on
    overrides: dict[str, list[str]] = field(default_factory=dict)  # stage -> overrides


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
    phase: str = "pretrain"  # its recipe: recipes.<scale>.<phase> of conf/models/<model>.yaml
    dataset: str = "rooms"
    subset: str = "full"  # full | large | medium | little: all, 1/4, 1/16, 1/64 of the training chunks
    variant: str = ""  # the run's name in tables and figures, when it is not the model's
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
