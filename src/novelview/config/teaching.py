"""Configuration node of stage `pointmaps`: what a teacher says every pixel of the training frames sees."""

from dataclasses import dataclass, field
from typing import Any

from novelview.config.schema import RuntimeConfig, ViewsConfig

# Keys of `views` that say how a frame becomes the network's image.
SIZED_BY = ("image_size", "image_width", "patch_size", "resize", "filter", "square_crop", "portrait")


@dataclass
class PointmapsStage:
    """Stage `pointmaps`: pointmaps of every frame of a split, at the size of the training, for PM-Loss."""

    scale: str = "demo"
    dataset: str = "rooms"
    split: str = "train"  # train | test
    teacher: str = "exact"  # exact: the procedural rooms' own depth | vggt: the world points of VGGT-1B
    weights: str = "pretrained/vggt_1b.safetensors"  # of teacher vggt
    chunk: int = 8  # vggt: frames that pass patch embedding and dense heads at a time
    views: ViewsConfig = field(default_factory=ViewsConfig)  # only how frames are resized counts
    io: dict[str, Any] = field(default_factory=dict)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
