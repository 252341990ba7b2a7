"""Configuration nodes of the stages."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from novelview.config.keys import key, refuse
from novelview.config.models import MIN_VIEWS, DepthSplatConfig, ModelConfig
from novelview.config.schema import EvalConfig, PackConfig, RuntimeConfig, Study, TrainConfig, ViewsConfig
from novelview.config.sources import EstimatorConfig, SourceConfig

# Keys of `views` that say how a frame becomes the network's image.
SIZED_BY = ("image_size", "image_width", "patch_size", "resize", "filter", "square_crop", "portrait")


@dataclass
class StageConfig:
    """What every stage has beside its own keys; neither is part of a digest. `io`: where files lie."""

    io: dict[str, Any] = key({})
    runtime: RuntimeConfig = key(RuntimeConfig)


@dataclass
class DataStage(StageConfig):
    """What stages that read or make a data set have."""

    scale: str = key("demo", "demo | mini | paper: a file of conf/scale")
    dataset: str = key("rooms", "its name, a folder of data/", folder=True)


@dataclass
class DownloadStage(DataStage):
    """Stage `download`: any source to chunks. `io.out` gets train/, test/, indices/ and manifest.json."""

    source: SourceConfig = MISSING
    path: str | None = None
    dataset: str = key("${source.name}", folder=True)


@dataclass
class PreprocessStage(DataStage):
    """Stage `preprocess`: chunks to the packed store."""

    pack: PackConfig = key(PackConfig)


@dataclass
class TrainStage(DataStage):
    """Stages `pretrain` and `finetune`: the same body, the phase chooses the recipe."""

    phase: str = key("pretrain", "its recipe: recipes.<scale>.<phase> of conf/models/<model>.yaml", folder=True)
    subset: str = key("full", "all, 1/4, 1/16, 1/64 of the training chunks", choices="full | large | medium | little")
    variant: str = key("", "the run's name in tables and figures, when it is not the model's")
    model: ModelConfig = MISSING
    views: ViewsConfig = key(ViewsConfig)
    train: TrainConfig = key(TrainConfig)

    def check(self) -> None:
        """Raise ConfigError for a model and views, or views and batches, that do not go together."""
        own, views = vars(self.model)["patch_size"], self.views
        refuse(views.patch_size != own, f"views.patch_size={views.patch_size}: the model's patch_size is {own}")
        few = isinstance(self.model, DepthSplatConfig) and views.num_context < MIN_VIEWS
        refuse(few, f"views.num_context={views.num_context}: DepthSplat matches views, give {MIN_VIEWS} or more")
        views.check_batches(self.train.batch_size)


@dataclass
class EvaluateStage(DataStage):
    """Stage `evaluate`: per-target rows, summary, pictures and videos of one set of weights."""

    eval: EvalConfig = key(EvalConfig)


@dataclass
class FiguresStage(StageConfig):
    """Stage `figures`: one figure or table from finished results."""

    scale: str = "demo"
    study: Study = MISSING
    figure: str = MISSING


@dataclass
class ReportStage(StageConfig):
    """Stage `report`: the self-contained HTML page of a study."""

    scale: str = "demo"
    study: Study = MISSING


@dataclass
class PosesStage(DataStage):
    """Stage `poses`: a data set with other cameras. `io.out` gets what `download` makes, and poses.json."""

    poses: EstimatorConfig = MISSING
    align: str = key("sim3", choices="sim3: to the given cameras | scale: the path made `length` long | none")
    length: float = key(1.0, "of align=scale: greatest distance between two cameras of a scene", above=0)
    splits: list[str] = key(["test"], "train | test")
    max_failed: int = key(0, "scenes that may be killed, run out of time or memory, and are tried again", at_least=0)


@dataclass
class PointmapsStage(DataStage):
    """Stage `pointmaps`: pointmaps of every frame of a split, at the size of the training, for PM-Loss."""

    split: str = key("train", choices="train | test")
    teacher: str = key("exact", choices="exact: the procedural rooms' own depth | vggt: the world points of VGGT-1B")
    weights: str = key("pretrained/vggt_1b.safetensors", "of teacher vggt")
    chunk: int = key(8, "vggt: frames that pass patch embedding and dense heads at a time", above=0)
    views: ViewsConfig = key(ViewsConfig, "only how frames are resized counts")


@dataclass
class AdoptStage(TrainStage):
    """Stage `adopt`: a published checkpoint to this project's weights, described like a training of our own."""

    dataset: str = key("unknown", "what the checkpoint was trained on", folder=True)
    subset: str = "published"
    name: str | None = key(None, "entry of conf/registry.yaml, fetched where it is not there yet")
    file: str | None = key(None, "or a checkpoint of one's own")


@dataclass
class CompactStage(StageConfig):
    """Stage `compact`: weights rounded to bfloat16, at most 16 MB: what is released. `io.before`: earlier phases'."""

    name: str = key(MISSING, "what they are released as, a folder of released/")


@dataclass
class PublishStage(StageConfig):
    """Stage `publish`: weights, configuration and model card as a folder, and to the hub where `repo` is named."""

    repo: str | None = key(None, "owner/name on the Hugging Face hub; null only writes the folder")
    private: bool = False
    licence: str = key("other", "an identifier of the hub; mind the weights' own terms, data and starting point")


@dataclass
class PathConfig:
    """Details of a clip's path (specs/lact.md 9, specs/lvsm.md 10); conf/camera_path holds the published ones."""

    frames_per_leg: int = key(0, "interpolate: camera to camera, both included, not `frames`; LVSM: 60", at_least=0)
    between: int = key(0, "interpolate: cameras put between each two instead of `frames`; LaCT: 2", at_least=0)
    loop: bool = key(False, "interpolate: return to the first camera")
    order: bool = key(False, "interpolate: each camera followed by the nearest one left")
    blend: str = key("slerp", choices="slerp | entrywise: the reference's, no rotations, see docs/quirks.md")
    hfov: float = key(50.0, "turntable: horizontal field of view in degrees", within=(0.1, 179.9))
    elevation: float = key(30.0, "turntable: mean elevation in degrees", within=(-90, 90))
    swing: float = key(15.0, "turntable: degrees the elevation swings to either side")
    min_radius: float = key(1.7, "turntable: smallest distance from the origin, in world units", above=0)
    max_radius: float = key(3.0, above=0)
    swap_sides: bool = key(False, "turntable, quirk: height taken for width in the intrinsics, see docs/quirks.md")


@dataclass
class SceneStage(DataStage):
    """What stages that take scenes of the packed store have."""

    split: str = key("test", "which scenes of the packed store", choices="test | train")
    scene: str = key("", "its key; empty: the first")
    views: int = key(2, "context views, which DepthSplat matches with each other", above=0)
    select: str = key("uniform", choices="uniform: in frame order | random | kmeans: camera centres")
    seed: int = key(0, at_least=0)
    resolution: str = key("", "256 or 72x128 (height x width); empty: the size the weights were trained at")
    amp: str = key("none", choices="bf16 | none")


@dataclass
class RenderStage(SceneStage):
    """Stage `render`: one scene encoded once, then a clip of it along a camera path."""

    chunk: int = key(4, "cameras rendered at a time", above=0)
    fps: int = key(30, above=0)
    path: str = key(
        "interpolate", "interpolate: through the contexts | turntable: around the origin, z up | FILE.json: its cameras"
    )
    frames: int = key(120, "frames of the whole clip, unless camera_path counts them by leg", above=0)
    camera_path: PathConfig = key(PathConfig)

    def check(self) -> None:
        """Raise ConfigError for a path that is none of ours and no file of cameras."""
        known = self.path in ("turntable", "interpolate") or self.path.endswith(".json")
        refuse(not known, f"path={self.path}: choose one of turntable, interpolate, or give a FILE.json of cameras")


@dataclass
class LatencyStage(DataStage):
    """Stage `latency`: what reconstructing and rendering cost, by number of context views and image size."""

    views: list[int] = key([2, 4, 8, 16], "numbers of context views")
    sizes: list[str] = key([], "further image sizes, 256 or 72x128; the weights' own comes first")
    repeats: int = key(5, "timed runs of each; the median is kept", above=0)
    renders: int = key(4, "cameras a timed render draws", above=0)
    amp: str = key("none", choices="bf16 | none")


@dataclass
class DepthStage(SceneStage):
    """Stage `depth`: depth maps of the context views of some scenes, by a model that predicts them (DepthSplat)."""

    scenes: int = key(1, "how many scenes where none is named, 0: all; an index names its own", at_least=0)
    index: str | None = key(None, "an evaluation index whose context views are taken instead")
    npy: bool = key(True, "float32 [h w], z in the units of the data's camera translations")
    png: bool = key(True, "1/depth in colours, the same ones for all views of a scene")
    concat: bool = key(True, "one picture: the views above their depths")
