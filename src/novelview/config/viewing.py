"""Configuration nodes of the stages that look at trained models: clips along camera paths, and what views cost."""

from dataclasses import dataclass, field
from typing import Any

from novelview.config.schema import RuntimeConfig


@dataclass
class PathConfig:
    """Details of a clip's path (specs/lact.md 9, specs/lvsm.md 10); conf/camera_path holds the published ones."""

    frames_per_leg: int = 0  # interpolate: from each camera to the next, both included, instead of `frames`; LVSM: 60
    between: int = 0  # interpolate: cameras put between each two instead of `frames`; LaCT: 2
    loop: bool = False  # interpolate: return to the first camera
    order: bool = False  # interpolate: each camera followed by the nearest one left
    blend: str = "slerp"  # slerp | entrywise: the reference's, whose matrices are no rotations, see docs/quirks.md
    hfov: float = 50.0  # turntable: horizontal field of view in degrees
    elevation: float = 30.0  # turntable: mean elevation in degrees
    swing: float = 15.0  # turntable: degrees the elevation swings to either side
    min_radius: float = 1.7  # turntable: smallest distance from the origin, in world units
    max_radius: float = 3.0
    swap_sides: bool = False  # turntable, quirk: height taken for width in the intrinsics, see docs/quirks.md


@dataclass
class RenderStage:
    """Stage `render`: one scene encoded once, then a clip of it along a camera path."""

    scale: str = "demo"
    dataset: str = "rooms"
    split: str = "test"  # test | train: which scenes of the packed store
    scene: str = ""  # its key; empty: the first
    views: int = 2  # context views
    select: str = "uniform"  # uniform (in frame order) | random | kmeans (camera centres)
    seed: int = 0
    resolution: str = ""  # 256 or 72x128 (height x width); empty: the size the weights were trained at
    amp: str = "none"  # none | bf16
    chunk: int = 4  # cameras rendered at a time
    fps: int = 30
    path: str = "turntable"  # turntable: around the world's origin, z up | interpolate: through the context cameras
    frames: int = 120  # frames of the whole clip, unless camera_path counts them by leg
    camera_path: PathConfig = field(default_factory=PathConfig)
    io: dict[str, Any] = field(default_factory=dict)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


@dataclass
class LatencyStage:
    """Stage `latency`: what reconstructing and rendering cost, by number of context views and image size."""

    scale: str = "demo"
    dataset: str = "rooms"
    views: list[int] = field(default_factory=lambda: [2, 4, 8, 16])  # numbers of context views
    sizes: list[str] = field(default_factory=list)  # further image sizes, 256 or 72x128; the weights' own comes first
    repeats: int = 5  # timed runs of each; the median is kept
    renders: int = 4  # cameras a timed render draws
    amp: str = "none"  # none | bf16
    io: dict[str, Any] = field(default_factory=dict)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


@dataclass
class DepthStage:
    """Stage `depth`: depth maps of the context views of some scenes, by a model that predicts them (DepthSplat)."""

    scale: str = "demo"
    dataset: str = "rooms"
    split: str = "test"  # test | train: which scenes of the packed store
    scene: str = ""  # its key; empty: the first `scenes`
    scenes: int = 1  # how many scenes, 0: all; an index names its own
    views: int = 2  # views of each, matched with each other
    select: str = "uniform"  # uniform (in frame order) | random | kmeans (camera centres)
    seed: int = 0
    index: str | None = None  # an evaluation index whose context views are taken instead
    resolution: str = ""  # 256 or 352x640 (height x width); empty: the size the weights were trained at
    amp: str = "none"  # none | bf16
    npy: bool = True  # float32 [h w], z in the units of the data's camera translations
    png: bool = True  # 1/depth in colours, the same ones for all views of a scene
    concat: bool = True  # one picture: the views above their depths
    io: dict[str, Any] = field(default_factory=dict)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
