"""Configuration nodes of processing, training, evaluation and studies; defaults are the published values.

Nothing in this package imports torch: figures, the Snakefile and the command lines read configurations in milliseconds.
"""

import re
from dataclasses import dataclass

from omegaconf import MISSING

from novelview.config.keys import key, refuse
from novelview.errors import ConfigError

# Training subsets (specs/re10k_format.md section 5): one part in so many of the training chunks.
SUBSETS = {"full": 1, "large": 4, "medium": 16, "little": 64}


@dataclass
class RuntimeConfig:
    """How to run, never what to compute: this node is left out of every digest."""

    device: str = key("auto", choices="auto | cpu | cuda")
    threads: int = key(0, "torch intra-op threads; 0 keeps torch's choice", at_least=0)
    workers: int = key(0, "loader or conversion processes; 0 runs in the main process", at_least=0)
    cache_mb: int = key(512, "decoded, resized frames kept in memory by the training loader", at_least=0)
    log_every: int = key(50, above=0)
    checkpoint_seconds: float = key(600.0, "wall-clock distance of resumable checkpoints", at_least=0)
    keep_checkpoints: int = key(2, above=0)
    max_minutes: float = key(0.0, "ends a stage with status 4, saved; called again it goes on; 0: never", at_least=0)
    stop_at: float = key(0.0, "the same at this Unix time (seconds); 0: never", at_least=0)
    wandb: str = key("offline", "its key is WANDB_API_KEY or `wandb login`", choices="online | offline | disabled")
    wandb_pictures: int = key(10, "log rows between pictures sent to wandb; 0: none", at_least=0)
    progress: bool = True
    code: str = key("strict", choices="strict: what other code made is made again | keep: it stays, and a line says so")


@dataclass
class PackConfig:
    """Chunks to packed store."""

    max_bad_frames: int = key(0, "damaged frames tolerated over the whole data set before the stage fails", at_least=0)
    max_bad_chunks: int = key(0, at_least=0)


@dataclass
class AugmentConfig:
    """Per-scene augmentations, the same for all views of a sample (demo_budget.md section 5); off as published."""

    mirror: bool = key(False, "half of the samples, as DepthSplat does")
    channels: bool = False
    swap_context: bool = False


@dataclass
class ViewsConfig:
    """Which frames make a sample and how they are resized (specs/uplvsm.md section 9, specs/lact.md section 8)."""

    image_size: int = key(224, "height in pixels; also the width unless image_width says otherwise", above=0)
    image_width: int = key(0, "width in pixels where it differs from the height (resize=cover); 0: square", at_least=0)
    patch_size: int = key(14, above=0)
    resize: str = key(
        "height",
        choices="height: to image_size, then square_crop | cover: scaled to cover height x width, cropped | "
        "centred: as cover, fx and fy by the rounded sizes, cx and cy keeping their share of the picture (DepthSplat)",
    )
    filter: str = key("lanczos", choices="lanczos | bilinear: PM-Loss")
    square_crop: bool = True
    portrait: str = key("fit", choices="fit: the shorter side becomes image_size | reference: see docs/quirks.md")
    sampler: str = key(
        "interval",
        choices="interval: contexts are its 2 ends | random: first num_context in, last num_target out | "
        "bounded: DepthSplat's, whose intervals grow with training | "
        "boundedv2: the same with min_context to num_context contexts",
    )
    num_views: int = 8
    num_context: int = key(2, above=0)
    num_target: int = key(6, above=0)
    min_frame_dist: int = key(25, above=0)
    max_frame_dist: int = 192
    start_min_dist: int = key(0, "bounded(v2): min_frame_dist at step 0, where dist_steps is above 0", at_least=0)
    start_max_dist: int = key(0, "max_frame_dist at step 0", at_least=0)
    dist_steps: int = key(0, "steps in which the distances go from first to last values; 0: at once", at_least=0)
    min_context: int = key(0, "boundedv2: fewest contexts, num_context the most; 0: always so many", at_least=0)
    target_has_input: bool = True
    pose_normalisation: str = key("scene", choices="scene: mean frame of views, scaled | none: as they come (objects)")
    scene_scale_factor: float = key(1.35, "largest coordinate of a camera centre becomes 1/this; LaCT: 1", above=0)
    augment: AugmentConfig = key(AugmentConfig)

    def check(self) -> None:
        """Raise ConfigError for image sizes no patch fits, and for views that no interval or draw holds."""
        for name in ("image_size", "image_width"):
            value = getattr(self, name)
            refuse(
                value % self.patch_size, f"views.{name}={value}: not a multiple of views.patch_size={self.patch_size}"
            )
        rectangle = self.image_width not in (0, self.image_size) and self.resize == "height"
        refuse(rectangle, f"views.image_width={self.image_width}: rectangles need views.resize=cover")
        {"random": self._check_random, "interval": self._check_interval}.get(self.sampler, self._check_bounded)()
        low, high = self.min_frame_dist, self.max_frame_dist
        refuse(self.sampler != "random" and low > high, f"views.min_frame_dist={low}: above max_frame_dist={high}")

    def _check_random(self) -> None:
        drawn = self.num_views
        for name in ("num_context", "num_target"):
            value = getattr(self, name)
            refuse(value > drawn, f"views.{name}={value}: above views.num_views={drawn}, the views drawn")

    def _check_interval(self) -> None:
        pool = self.num_views - (0 if self.target_has_input else self.num_context)
        refuse(self.num_target > pool, f"views.num_target={self.num_target}: views.num_views leaves {pool}")
        refuse(
            self.num_context != 2,
            f"views.num_context={self.num_context}: training takes the 2 ends of an interval; "
            "any number goes with views.sampler=random",
        )

    def _check_bounded(self) -> None:
        contexts, low, high = self.num_context, self.start_min_dist, self.start_max_dist
        refuse(
            self.dist_steps and not 0 < low <= high,
            f"views.start_min_dist={low}: must lie between 1 and views.start_max_dist={high} "
            "where views.dist_steps is above 0",
        )
        refuse(
            self.sampler == "bounded" and contexts != 2,
            f"views.num_context={contexts}: sampler bounded takes 2; boundedv2 takes more",
        )
        refuse(
            self.min_context and not 2 <= self.min_context <= contexts,
            f"views.min_context={self.min_context}: must lie between 2 and views.num_context={contexts}",
        )

    def check_batches(self, batch_size: int) -> None:
        """Refuse batches whose samples may have different numbers of targets: short intervals hold fewer."""
        shortest = min(self.min_frame_dist, self.start_min_dist if self.dist_steps else self.min_frame_dist)
        held = max(1, shortest // (self.num_context // (self.min_context or self.num_context))) + 1
        refuse(
            self.sampler == "boundedv2" and batch_size > 1 and held < self.num_target,
            f"views.num_target={self.num_target}: the shortest intervals hold {held} frames, so that samples differ; "
            "use train.batch_size=1, fewer targets, or a larger views.min_frame_dist",
        )


@dataclass
class PointmapLossConfig:
    """PM-Loss: the means of the Gaussians against a teacher's pointmap (specs/pmloss.md sections 1 and 2)."""

    weight: float = key(0.0, "published 0.005; above 0 the training needs io.pointmaps", at_least=0)
    apply_after: int = key(0, "first step (0-based) whose loss has the term", at_least=0)
    teacher: str = key("exact", choices="exact: the procedural rooms' own depth | vggt: the world points of VGGT-1B")
    ignore_large: float = key(100.0, "a scene's loss above this counts a 1e-5th", above=0)
    detach_alignment: bool = key(False, "no gradient through the alignment; published false")


@dataclass
class LossConfig:
    """Weights of the training losses (specs/uplvsm.md section 6; for Gaussians specs/depthsplat.md section 11)."""

    mse: float = key(1.0, at_least=0)
    perceptual: float = key(0.5, at_least=0)
    lpips: float = key(0.0, at_least=0)
    lpips_from: int = key(0, "first step (0-based) whose loss has the LPIPS term; LaCT: 5000", at_least=0)
    lpips_weights: str | None = key("pretrained/vgg16-397923af.pth", "backbone, needed when lpips > 0")
    vgg_weights: str | None = key("pretrained/imagenet-vgg-verydeep-19.mat", "needed when perceptual > 0")
    ignore_large_mse: float = key(0.0, "squared errors from here on leave the mean; 0: none; PM-Loss: 0.2", at_least=0)
    intermediate_decay: float = key(0.9, "the i-th of K coarser predictions weighs this ** (K - i)", within=(0, 1))
    damp_above: float = key(0.0, "a photometric loss above this counts a 1e-8th; 0: never; PM-Loss: 0.1", at_least=0)
    damp_after: int = key(300, "last step (0-based) that damp_above leaves alone", at_least=0)
    stale_lpips: bool = key(False, "quirk of PM-Loss's trainer, see docs/quirks.md")
    pointmap: PointmapLossConfig = key(PointmapLossConfig)

    def check(self) -> None:
        """Raise ConfigError for a loss without the weights it needs."""
        for term, name in (("perceptual", "vgg_weights"), ("lpips", "lpips_weights")):
            refuse(
                getattr(self, term) > 0 and not getattr(self, name),
                f"train.losses.{name}=null: the {term} loss needs it; give a path or set {term}=0",
            )


@dataclass
class TrainConfig:
    """The optimisation recipe (specs/uplvsm.md section 8)."""

    seed: int = key(777, at_least=0)
    steps: int = key(100_000, above=0)
    batch_size: int = key(16, "scenes a process", above=0)
    grad_accum: int = key(1, above=0)
    lr: float = key(4e-4, above=0)
    warmup: int = key(4_000, at_least=0)
    lr_pretrained: float = key(0.0, "peak rate of parameters named `*pretrained*`; 0: lr; DepthSplat: 2e-6", at_least=0)
    schedule: str = key("cosine", choices="cosine | linear | constant | onecycle: PyTorch's, which has its own warm-up")
    onecycle_rise: float = key(0.01, "share of the onecycle schedule in which the rate rises", within=(0, 1))
    beta1: float = key(0.9, within=(0, 0.999999))
    beta2: float = key(0.95, within=(0, 0.999999))
    eps: float = key(1e-8, above=0)
    weight_decay: float = key(0.05, at_least=0)
    decay: str = key("matrices", choices="matrices: parameters of one dimension are not decayed | all")
    clip_norm: float = key(1.0, above=0)
    clip_from: int = key(0, "first step (0-based) that clips or skips large gradients; LaCT: 1000", at_least=0)
    allowed_gradnorm_factor: float = key(4.0, "a norm above clip_norm times this skips the update; 0: none", at_least=0)
    amp: str = key(
        "bf16",
        "weights, optimiser and gradients of weights stay float32",
        choices="bf16 | fp16 | none | auto: bf16 where a GPU or the processor multiplies it in hardware, else none; "
        "settled when the configuration is composed",
    )
    tf32: bool = True
    compile: bool = False
    activation_checkpointing: bool = True
    extra_iteration: bool = key(True, "quirk: the reference loop runs steps + 1 iterations, see docs/quirks.md")
    schedule_on_skip: bool = key(True, "quirk: the schedule advances on skipped updates, see docs/quirks.md")
    losses: LossConfig = key(LossConfig)


@dataclass
class EvalConfig:
    """Evaluation protocol (specs/uplvsm.md section 10, for chosen views specs/lact.md section 9)."""

    splits: list[str] = key(["small", "medium", "large", "extrapolation", "full"])
    select: str = key("index", choices="index: those of `splits` | random | uniform: in order | kmeans: of centres")
    num_context: int = key(2, "context views a scene, unless select=index", above=0)
    context_counts: list[int] = key([], "several numbers instead: a split each, the same targets")
    num_target: int = key(0, "target views a scene, unless select=index; 0: all that are left", at_least=0)
    num_views: int = key(0, "frames drawn at random from each scene before selecting; 0: all of them", at_least=0)
    batch_size: int = key(8, above=0)
    amp: str = key("none", "the reference evaluates inside bf16 autocast, see docs/quirks.md", choices="bf16 | none")
    bootstrap: int = key(1000, above=0)
    seed: int = key(0, at_least=0)
    lpips_weights: str | None = key("pretrained/vgg16-397923af.pth", "backbone; absent: the column reads n/a")
    gallery: int = key(6, "samples whose pictures are kept for the figures", at_least=0)
    swap_poses: bool = key(True, "also score renders made with another target's pose")
    video_frames: int = key(24, "frames from each context pose to the next", within=(2, 10000))
    video_fps: int = key(30, within=(1, 240))
    video_loop: bool = key(True, "the path returns to the first context")
    video_order: bool = key(False, "contexts in the order of the nearest next, not as they come")
    video_ease: bool = key(False, "speed up from each context and slow down to the next, as a loop without a jerk")
    video_scenes: int = key(2, at_least=0)
    geometry_entries: int = key(32, "entries a set and split with depth compared with the exact, if any", at_least=0)
    ply_scenes: int = key(1, "scenes whose Gaussians are written as PLY files, by models that predict them", at_least=0)
    pose_scenes: int = key(6, "scenes whose cameras are estimated along their path, by models that do", at_least=0)


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
    size: str = key("", "another size of conf/models, size=<scale>/<size>; empty: the model's")
    recipe: str = key("", "another recipe of conf/models, recipe=<scale>/<recipe>/<phase>; empty: the model's")
    phases: list[str] = key([], "the first ones of the study's; empty: all of them")
    train: list[str] = key([], "of stage train")


@dataclass
class Study:
    """One file of conf/study."""

    name: str = MISSING
    title: str = ""
    published: str | None = key(None, "a key of evaluation/published.yaml")
    variants: dict[str, Variant] = key({}, "runs that are not a model as it stands")
    models: list[str] = key([], "the runs: models of conf/models, or variants")
    models_at: dict[str, list[str]] = key({}, "scale -> its runs, where they are not `models`")
    figures: list[str] = key([])
    tables: list[str] = key(["results_table"])
    phases: list[str] = key([], "the first from nothing, each later one from the one before")
    subsets: dict[str, list[str]] = key({}, "scale -> training subsets; absent: full")
    extras: list[str] = key([], "files below the study's results that the report waits for")
    poses: dict[str, list[str]] = key({}, "scale -> estimators: evaluations on their cameras, too")
    pose_free: list[str] = key([], "runs that take no poses: judged on the given cameras alone")
    data: dict[str, StudyData] = key({})
    releases: dict[str, str] = key({}, "run -> what its last phase is released as")
    showcase: dict[str, StudyData] = key({}, "scale -> data to show released checkpoints on")
    overrides: dict[str, list[str]] = key({}, "stage -> overrides")


@dataclass(frozen=True, order=True)
class Resolution:
    """Height and width in pixels; ordered by height, printed as in paths."""

    height: int
    width: int

    def __str__(self) -> str:
        return str(self.height) if self.height == self.width else f"{self.height}x{self.width}"

    def __bool__(self) -> bool:
        return self.height > 0

    @classmethod
    def parse(cls, text: str | int) -> "Resolution":
        """Read `126` or `72x128`; raises ConfigError for anything else."""
        found = re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", str(text))
        if not found:
            raise ConfigError(f"image size {text!r}: write 256 for a square or 72x128 for height x width")
        return cls(int(found[1]), int(found[2] or found[1]))


def sides(views: ViewsConfig) -> tuple[int, int]:
    """Return (height, width) of the images `views` asks for; without image_width they are called squares."""
    return views.image_size, views.image_width or views.image_size


def size_name(views: ViewsConfig) -> str:
    """Return how paths and tables call the size of `views`: `126`, or `72x128` where the sides differ."""
    return str(Resolution(*sides(views)))
