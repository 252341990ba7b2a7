"""Plane sweep: how well features match at candidate depths (specs/depthsplat.md section 5)."""

from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import grid_sample
from torch.utils.checkpoint import checkpoint

from novelview.devices import full_precision

MIN_Z = 1e-3


def coarse_candidates(near: float, far: float, count: int, like: Tensor) -> Float[Tensor, "1 d 1 1"]:
    """Return `count` inverse depths, from 1/far to 1/near in equal steps."""
    return torch.linspace(1 / far, 1 / near, count, device=like.device)[None, :, None, None]


def fine_candidates(
    inverse: Float[Tensor, "n 1 h w"], near: float, far: float, coarse: int, scale: int
) -> Float[Tensor, "n d h w"]:
    """Return the candidates around a prediction: half of them below it, in steps 2^scale finer than the coarse ones.

    coarse: number of candidates at scale 0, of which this one has coarse / 4^scale. Both ends are kept inside
    [1/far, 1/near], and what lies between is evenly spaced.
    """
    count = coarse // 4**scale
    step = (1 / near - 1 / far) / (coarse - 1) / 2**scale
    low = (inverse - count // 2 * step).clamp(1 / far, 1 / near)
    high = (inverse + (count // 2 - 1) * step).clamp(1 / far, 1 / near)
    place = torch.linspace(0, 1, count, device=inverse.device, dtype=inverse.dtype)[:, None, None]
    return low + place * (high - low)


def warp(
    features: Float[Tensor, "n c h w"],
    intrinsics: Float[Tensor, "n 3 3"],
    pose: Float[Tensor, "n 4 4"],
    depth: Float[Tensor, "n d h w"],
) -> Float[Tensor, "n c d h w"]:
    """Sample another view's features where the reference view's pixels, at candidate depths, fall in it.

    intrinsics: in pixels of the map, of the reference view and used for both (exact where views share them); pose:
    reference camera to the other camera; depth: z in the reference camera. Pixel centres at integers, zero outside;
    no gradient through the places.
    """
    with torch.no_grad():
        grid = _places(intrinsics, pose, depth)
    warped = grid_sample(features, grid.flatten(1, 2), "bilinear", "zeros", align_corners=True)
    return warped.unflatten(2, depth.shape[1:3])


def _places(
    intrinsics: Float[Tensor, "n 3 3"], pose: Float[Tensor, "n 4 4"], depth: Float[Tensor, "n d h w"]
) -> Float[Tensor, "n d h w 2"]:
    """Return where the reference pixels fall in the other map, its corners at -1 and 1."""
    height, width = depth.shape[-2:]
    y, x = (torch.arange(size, device=depth.device, dtype=depth.dtype) for size in (height, width))
    pixels = torch.stack([x.expand(height, -1), y[:, None].expand(-1, width), torch.ones_like(x).expand(height, -1)])
    rays = pose[:, :3, :3] @ (intrinsics.inverse() @ pixels.flatten(1))
    points = rays[:, :, None] * depth.flatten(2)[:, None] + pose[:, :3, 3, None, None]
    projected = (intrinsics @ points.flatten(2)).unflatten(2, depth.shape[1:])
    xy = projected[:, :2] / projected[:, 2:].clamp(min=MIN_Z)
    last = torch.tensor([width - 1, height - 1], device=depth.device, dtype=depth.dtype)
    return 2 * xy.movedim(1, -1) / last - 1


def cost_volume(
    features: Float[Tensor, "b v c h w"],
    intrinsics: Float[Tensor, "b v 3 3"],
    c2w: Float[Tensor, "b v 4 4"],
    inverse: Float[Tensor, "n d h w"],
    others: Int[Tensor, "b v m"],
    recompute: bool = False,
) -> Float[Tensor, "n d h w"]:
    """Return the mean over the other views of (reference . warped) / sqrt(c) at every candidate, n = b v.

    intrinsics: in pixels of the maps. inverse: candidate inverse depths, also [1 d 1 1]. One other view at a time, in
    float32 also under autocast, where bfloat16 would round places to whole pixels. recompute: warp again in the
    backward pass instead of keeping what was warped.
    """
    recompute = recompute and torch.is_grad_enabled()
    with full_precision(features):
        features, c2w, lens = features.float(), c2w.float(), intrinsics.float().flatten(0, 1)
        depth = (1 / inverse.float()).expand(features.shape[0] * features.shape[1], -1, *features.shape[-2:])
        total: Tensor | int = 0
        for other in others.unbind(-1):
            given = (features, lens, c2w, depth, other)
            total = total + (checkpoint(_matched, *given, use_reentrant=False) if recompute else _matched(*given))
        return cast(Tensor, total) / (features.shape[2] ** 0.5 * others.shape[-1])


def _matched(
    features: Float[Tensor, "b v c h w"],
    intrinsics: Float[Tensor, "n 3 3"],
    c2w: Float[Tensor, "b v 4 4"],
    depth: Float[Tensor, "n d h w"],
    other: Int[Tensor, "b v"],
) -> Float[Tensor, "n d h w"]:
    """Return the scalar products of every view's features with those of one other view each, warped."""
    place = torch.arange(len(c2w), device=c2w.device)[:, None], other
    pose = torch.linalg.inv(c2w[place]) @ c2w
    warped = warp(features[place].flatten(0, 1), intrinsics, pose.flatten(0, 1), depth)
    return torch.einsum("nchw,ncdhw->ndhw", features.flatten(0, 1), warped)
