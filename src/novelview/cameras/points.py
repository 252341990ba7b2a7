"""Depth maps as points of the world."""

import torch
from jaxtyping import Float
from torch import Tensor


def unproject(
    depth: Float[Tensor, "v h w"], c2w: Float[Tensor, "v 4 4"], intrinsics: Float[Tensor, "v 4"]
) -> Float[Tensor, "v 3 h w"]:
    """Return the world points at the pixel centres (x + 0.5, y + 0.5) of maps of z-depth, in the units of c2w.

    intrinsics: fx fy cx cy in pixels of the maps. Computed in float64, returned in the dtype of `depth`.
    """
    height, width = depth.shape[-2:]
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    x, y = x.to(depth.device).double(), y.to(depth.device).double()
    fx, fy, cx, cy = intrinsics.double()[..., None, None].unbind(1)
    rays = torch.stack([(x - cx) / fx, (y - cy) / fy, torch.ones_like(x).expand(len(depth), -1, -1)], dim=1)
    pose = c2w.double()
    points = torch.einsum("vij,vjhw->vihw", pose[:, :3, :3], rays * depth.double()[:, None])
    return (points + pose[:, :3, 3, None, None]).to(depth.dtype)
