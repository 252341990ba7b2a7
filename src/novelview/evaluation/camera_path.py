"""Clips that travel between the context views of a scene and back (specs/uplvsm.md section 11)."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from novelview.cameras.paths import interpolate
from novelview.config.schema import EvalConfig
from novelview.evaluation.gallery import to_uint8
from novelview.evaluation.poses import choose_scenes
from novelview.evaluation.protocol import Task, autocast
from novelview.evaluation.video import enlarge, write_video
from novelview.scenes.batch import FrameCache, Views, collate

GAP = 4  # white pixels between the pictures of a frame


class PathModel(Protocol):
    """A model that renders cameras; `estimate_poses` where it knows no true ones."""

    needs_target_poses: bool

    def render_path(
        self, context: Views, c2w: Float[Tensor, "b n 4 4"], intrinsics: Float[Tensor, "b n 4"]
    ) -> Float[Tensor, "b n 3 h w"]: ...


def write_clips(
    out: Path, model: PathModel, cache: FrameCache, task: Task, cfg: EvalConfig, device: torch.device
) -> list[str]:
    """Write `path_<scene>.mp4` for up to `cfg.video_scenes` scenes into `out`; return the file names.

    A scene shown by one context view has no path and is left out.
    """
    names = []
    for number in choose_scenes(task, cfg.video_scenes):
        entry = task.entries[number]
        if len(entry.context) < 2:
            continue
        batch = collate([cache.sample(entry.scene, entry.context, number)], len(entry.context)).to_batch(device)
        name = f"path_{re.sub(r'[^A-Za-z0-9._-]+', '-', entry.scene)}.mp4"
        write_video(out / name, clip(model, batch.context, cfg), cfg.video_fps)
        names.append(name)
    return names


@torch.no_grad()
def clip(model: PathModel, context: Views, cfg: EvalConfig) -> UInt8[np.ndarray, "n h w 3"]:
    """Render the path of one scene (batch of one), the first and the last context view beside every frame."""
    with autocast(cfg.amp, context.c2w.device):
        # Between two cameras the way back shows the pictures of the way there: they are rendered once.
        mirrored = cfg.video_ease and cfg.video_loop and context.c2w.shape[1] == 2
        path = (cfg.video_frames, cfg.video_loop and not mirrored, cfg.video_order, cfg.video_ease)
        c2w, intrinsics = interpolate(*cameras(model, context), *path)
        images = model.render_path(context, c2w[None], intrinsics[None])[0].float()
        images = images[there_and_back(len(images))] if mirrored else images
    assert context.images is not None
    sides = [context.images[0, end].expand_as(images) for end in (0, -1)]
    return enlarge(beside([sides[0], images, sides[1]]))


def there_and_back(count: int) -> list[int]:
    """Return the frame numbers of a loop to the last frame and back, neither end twice."""
    return [*range(count), *range(count - 2, 0, -1)]


def cameras(model: Any, context: Views) -> tuple[Float[Tensor, "v 4 4"], Float[Tensor, "v 4"]]:
    """Return the cameras a path runs through: the context views', true where the model takes poses, else estimated."""
    c2w = context.c2w if model.needs_target_poses else model.estimate_poses(context, context.images)
    return c2w[0].float(), context.intrinsics[0]


def beside(pictures: Sequence[Float[Tensor, "n 3 h w"]]) -> UInt8[np.ndarray, "n h w 3"]:
    """Put pictures side by side with a white gap, as bytes, channels last."""
    gap = torch.ones_like(pictures[0][..., :GAP])
    parts = [part for picture in pictures for part in (picture, gap)][:-1]
    return to_uint8(torch.cat(parts, dim=-1)).permute(0, 2, 3, 1).cpu().numpy()
