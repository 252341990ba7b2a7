"""Configuration nodes of camera estimation: VGGT, and the stage that replaces a data set's cameras."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from novelview.config.models import DinoConfig
from novelview.config.schema import RuntimeConfig


def _patch_vit() -> DinoConfig:
    return DinoConfig(embed_dim=1024, depth=24, num_heads=16, qk_norm=False)


@dataclass
class CameraHeadConfig:
    """VGGT's camera head (specs/vggt.md section 1)."""

    trunk_depth: int = 4
    num_heads: int = 16
    num_iterations: int = 4


@dataclass
class DptConfig:
    """VGGT's dense heads (specs/vggt.md section 1)."""

    features: int = 256
    out_channels: list[int] = field(default_factory=lambda: [256, 512, 1024, 1024])
    intermediate_layer_idx: list[int] = field(default_factory=lambda: [4, 11, 17, 23])


@dataclass
class VGGTConfig:
    """VGGT (specs/vggt.md); the defaults are those of the published weights facebook/VGGT-1B."""

    embed_dim: int = 1024
    depth: int = 24  # pairs of attention within a frame and over all frames
    num_heads: int = 16
    num_register_tokens: int = 4
    rope_frequency: float = 100.0
    init_values: float = 0.01
    patch_vit: DinoConfig = field(default_factory=_patch_vit)
    camera_head: CameraHeadConfig = field(default_factory=CameraHeadConfig)
    dpt: DptConfig = field(default_factory=DptConfig)


@dataclass
class EstimatorConfig:
    """Where cameras come from; one subclass a kind."""

    kind: str = MISSING
    frames: str = "all"  # all: of a scene, together | entries: those that evaluation entries name, together
    max_frames: int = 0  # longer scenes are thinned evenly to this many, entries' frames kept; 0: never


@dataclass
class GivenEstimator(EstimatorConfig):
    """The cameras the data set came with."""

    kind: str = "given"


@dataclass
class ColmapEstimator(EstimatorConfig):
    """Structure from motion with pycolmap, a process a scene."""

    kind: str = "colmap"
    camera_model: str = "SIMPLE_PINHOLE"  # one lens a scene
    intrinsics: str = "estimate"  # estimate | given: the data set's, kept as they are
    matcher: str = "auto"  # exhaustive | sequential: neighbours in frame order | auto: the former up to 150 frames
    overlap: int = 10  # of matcher sequential: neighbours on each side
    max_features: int = 4096  # of a frame
    seconds: float = 3600.0  # of wall clock; a scene that takes longer has failed, until the next run
    seed: int = 0


@dataclass
class VggtEstimator(EstimatorConfig):
    """VGGT: cameras and depth of a scene's frames in one pass (specs/vggt.md)."""

    kind: str = "vggt"
    frames: str = "entries"
    max_frames: int = 64
    weights: str = "pretrained/vggt_1b.safetensors"  # registry entry vggt
    mode: str = "crop"  # crop | pad: how pictures are brought to 518 pixels
    amp: str = "bf16"  # bf16 | none: the backbone's arithmetic on a GPU; heads run in float32
    model: VGGTConfig = field(default_factory=VGGTConfig)


@dataclass
class PosesStage:
    """Stage `poses`: a data set with other cameras. `io.out` gets what `download` makes, and poses.json."""

    scale: str = "demo"
    dataset: str = "rooms"
    poses: EstimatorConfig = MISSING
    align: str = "sim3"  # sim3: to the given cameras | scale: the path made `length` long | none: as estimated
    length: float = 1.0  # of align=scale: greatest distance between two cameras of a scene
    splits: list[str] = field(default_factory=lambda: ["test"])  # train | test
    io: dict[str, Any] = field(default_factory=dict)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
