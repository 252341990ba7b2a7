"""gsplat 1.5.3's own PyTorch functions as a rasterizer on the CPU, for bench/rasterizer.py.

Projection, tile lists, offsets and accumulation are gsplat's. Two things it needs exist on CUDA only and are replaced
here: the search for (pixel, Gaussian) pairs (`rasterize_to_indices_in_range`) and nerfacc's two scans over them."""

import sys
from itertools import pairwise
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

TILE = 16
STOP = 1e-4


def render(scene: dict[str, Tensor], viewmat: Tensor, K: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Return colour with depth [h w 4] and alpha [h w 1] of one camera; `scene` as `rasterizer.make_scene` gives it."""
    path = _torch_functions()
    covariances, _ = path._quat_scale_to_covar_preci(scene["quats"], scene["scales"], True, False, triu=False)
    radii, means, depths, conics, _ = path._fully_fused_projection(
        scene["means"], covariances, viewmat[None], K[None], width, height
    )
    across, down = -(-width // TILE), -(-height // TILE)
    _, keys, order = path._isect_tiles(means, radii, depths, TILE, across, down)
    offsets = path._isect_offset_encode(keys, 1, across, down)
    directions = scene["means"] + viewmat[:3, :3].mT @ viewmat[:3, 3]
    rgb = torch.clamp(path._spherical_harmonics(2, directions, scene["sh"]) + 0.5, min=0)
    values = torch.cat([rgb[None], depths[..., None]], dim=-1)
    color, alpha = path._rasterize_to_pixels(
        means, conics, values, scene["opacities"][None], width, height, TILE, offsets, order, batch_per_iter=10**6
    )
    return color[0], alpha[0]


def _torch_functions() -> Any:
    from gsplat.cuda import _torch_impl, _wrapper

    _wrapper.rasterize_to_indices_in_range = _find_pairs
    scans: Any = ModuleType("nerfacc")
    scans.render_weight_from_alpha, scans.accumulate_along_rays = _weights, _accumulate
    sys.modules["nerfacc"] = scans
    return _torch_impl


@torch.no_grad()
def _find_pairs(
    begin: int,
    end: int,
    transmittances: Tensor,
    means: Tensor,
    conics: Tensor,
    opacities: Tensor,
    width: int,
    height: int,
    tile: int,
    offsets: Tensor,
    order: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return Gaussians, pixels and images of the pairs that contribute, by pixel, front to back; all in one call."""
    starts = [*offsets.flatten().tolist(), len(order)]
    found = []
    for number, (first, last) in enumerate(pairwise(starts)):
        top, left = number // offsets.shape[-1] * tile, number % offsets.shape[-1] * tile
        rows, columns = torch.arange(top, min(top + tile, height)), torch.arange(left, min(left + tile, width))
        y, x = (value.flatten() for value in torch.meshgrid(rows, columns, indexing="ij"))
        ids = order[first:last].long()
        dx, dy = x[:, None] + 0.5 - means[0, ids, 0], y[:, None] + 0.5 - means[0, ids, 1]
        a, b, c = conics[0, ids].unbind(-1)
        sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
        alpha = torch.clamp(opacities[0, ids] * torch.exp(-sigma), max=0.999)
        alpha = torch.where((sigma < 0) | (alpha < 1 / 255), 0, alpha)
        kept = (alpha > 0) & (torch.cumprod(1 - alpha, dim=1) > STOP)
        pixel, place = torch.nonzero(kept, as_tuple=True)
        found.append(torch.stack([ids[place], (y * width + x)[pixel]]))
    gaussians, pixels = torch.cat(found, dim=1)
    pixels, by_pixel = torch.sort(pixels, stable=True)
    return gaussians[by_pixel], pixels, torch.zeros_like(pixels)


def _weights(alphas: Tensor, ray_indices: Tensor, n_rays: int) -> tuple[Tensor, Tensor]:
    """Return weights and transmittances of alphas that lie ray by ray, by sums of logarithms in float64."""
    logs = torch.log1p(-alphas.double())
    counts = torch.bincount(ray_indices, minlength=n_rays)
    before = logs.cumsum(0) - logs
    light = torch.exp(before - before[counts.cumsum(0) - counts].repeat_interleave(counts) if len(logs) else before)
    return (light * alphas).float(), light.float()


def _accumulate(weights: Tensor, values: Tensor | None, ray_indices: Tensor, n_rays: int) -> Tensor:
    parts = weights[:, None] if values is None else weights[:, None] * values
    return parts.new_zeros(n_rays, parts.shape[1]).index_add(0, ray_indices, parts)
