"""Clips of a scene that is encoded once: the cameras of a configured path, and their pictures (specs/lact.md 9)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from novelview.cameras.paths import along, interpolate, nearest_order
from novelview.cameras.poses import mean_frame
from novelview.config.schema import ViewsConfig
from novelview.config.stages import PathConfig
from novelview.evaluation.protocol import autocast
from novelview.evaluation.scene_file import Encoded, Facts
from novelview.models.render import ViewModel
from novelview.scenes.batch import FrameCache, collate
from novelview.scenes.store import PackedStore

Cameras = tuple[Float[Tensor, "n 4 4"], Float[Tensor, "n 4"]]


def path_cameras(
    path: PathConfig, frames: int, c2w: Float[Tensor, "v 4 4"], intrinsics: Float[Tensor, "v 4"]
) -> Cameras:
    """Return the cameras of a path through the context cameras, `frames` of them unless the path counts by leg.

    Raises DataError for a path through fewer than two cameras.
    """
    if path.frames_per_leg:
        return interpolate(c2w, intrinsics, path.frames_per_leg, path.loop, path.order)
    stops = nearest_order(c2w[:, :3, 3]) if path.order else list(range(len(c2w)))
    stops += stops[:1] if path.loop else []
    legs = max(1, len(stops) - 1)
    count = legs * (path.between + 1) + 1 if path.between else frames
    return along(c2w[stops], intrinsics[stops], torch.linspace(0, legs, count, dtype=torch.float64), path.blend)


def encode_scene(
    model: ViewModel,
    weights: Path,
    store: PackedStore,
    scene: str,
    frames: Sequence[int],
    views: ViewsConfig,
    device: torch.device,
    amp: str = "none",
) -> Encoded:
    """Encode the context views `frames` of a scene; `weights` is the file the model came from."""
    sample = FrameCache(store, views, 0).sample(scene, frames, 0)
    context = collate([sample], len(frames)).to_batch(device).context
    with torch.no_grad(), autocast(amp, device):
        tokens = model.encode(context)
    frame = mean_frame(store.c2w(scene)[list(frames)], views.scene_scale_factor)
    moved = {"motion": frame.motion.tolist(), "scale": float(frame.scale)}
    height, width = sample.images.shape[-2:]
    placed = moved if views.pose_normalisation == "scene" else {}
    facts = Facts(**Facts.of(weights), scene=scene, frames=list(frames), height=height, width=width, **placed)
    return Encoded(tokens, context.c2w[0], context.intrinsics[0], facts)


@dataclass
class Viewer:
    """A scene that a model has encoded, ready for any number of cameras.

    scene: what the model's `encode` returned for one scene; height, width: size of its pictures in pixels.
    """

    model: Any
    scene: Any
    height: int
    width: int
    amp: str = "none"

    @torch.no_grad()
    def pictures(self, cameras: Cameras, chunk: int = 4) -> Iterator[Float[Tensor, "n 3 h w"]]:
        """Yield pictures of the cameras [n 4 4], [n 4], at most `chunk` at a time, float32 in [0,1].

        Cameras must be in the frame the model decodes in (`ViewModel.cameras`).
        """
        c2w, intrinsics = (part[None].to(next(self.model.parameters()).device) for part in cameras)
        for poses, lenses in zip(c2w.split(chunk, 1), intrinsics.split(chunk, 1), strict=True):
            with autocast(self.amp, poses.device):
                yield self.model.decode(self.scene, poses, lenses, self.height, self.width)[0].float()
