"""What an estimator of cameras takes and returns."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from novelview.scenes.chunks import ChunkScene


@dataclass
class Depth:
    """z depth of k frames in the estimate's own scale, and confidences of the estimator's own kind."""

    values: Float[Tensor, "k h w"]
    confidence: Float[Tensor, "k h w"]


@dataclass
class Estimate:
    """Cameras of the frames an estimator placed, in a world and a scale of its own.

    frames: k frame numbers, ascending; w2c: [k 4 4] float64, OpenCV axes; intrinsics: [k 4], fx/W fy/H cx/W cy/H.
    quality: what the estimator says of itself (reprojection_px, points, median_depth, ...), for the record.
    """

    frames: list[int]
    w2c: Float[Tensor, "k 4 4"]
    intrinsics: Float[Tensor, "k 4"]
    quality: dict[str, Any] = field(default_factory=dict)
    depth: Depth | None = None


class Estimator(Protocol):
    """Places frames of a scene.

    alone: only one scene at a time, because the estimator itself fills the machine.
    """

    name: str
    alone: bool

    def estimate(self, scene: ChunkScene, frames: list[int], work: Path, log: Path) -> Estimate:
        """Return the cameras of those of `frames` that could be placed; `work` is an empty folder for its files.

        Raises DataError where it could place none: the reason goes into the scene's record, and the scene is left out.
        Stopped (`novelview.scenes.imports.reconstruct`) is such a reason, but one worth another try.
        """
        ...


def given_cameras(scene: ChunkScene) -> tuple[Float[Tensor, "n 4 4"], Float[Tensor, "n 4"]]:
    """Return the w2c matrices, float64, and normalised intrinsics that a scene came with."""
    w2c = torch.eye(4, dtype=torch.float64).repeat(len(scene.cameras), 1, 1)
    w2c[:, :3] = scene.cameras[:, 6:].double().unflatten(1, (3, 4))
    return w2c, scene.cameras[:, :4].double()


class Given:
    """Keeps the cameras that are there."""

    name = "given"
    alone = False

    def estimate(self, scene: ChunkScene, frames: list[int], work: Path, log: Path) -> Estimate:
        """Return the cameras of all frames."""
        w2c, intrinsics = given_cameras(scene)
        return Estimate(frames, w2c[frames], intrinsics[frames])
