"""Rays of pixels and their Plücker coordinates (specs/uplvsm.md section 2.5)."""

import torch
from jaxtyping import Float
from torch import Tensor

from novelview.devices import full_precision

MIN_LENGTH = 1e-3  # a direction is divided by max(length, this), as the reference does


def rays(
    c2w: Float[Tensor, "*b 4 4"], intrinsics: Float[Tensor, "*b 4"], height: int, width: int
) -> tuple[Float[Tensor, "*b 3 h w"], Float[Tensor, "*b 3 h w"]]:
    """Return origins and unit directions, in world coordinates, of the rays through all pixel centres.

    c2w is OpenCV camera-to-world, intrinsics are fx fy cx cy in pixels. Computed in float32 (or wider) also under
    autocast, where bfloat16 would round directions to about a pixel.
    """
    with full_precision(c2w):
        c2w, intrinsics = (value.float() if value.dtype != torch.float64 else value for value in (c2w, intrinsics))
        ys, xs = (torch.arange(size, dtype=c2w.dtype, device=c2w.device) + 0.5 for size in (height, width))
        fx, fy, cx, cy = (part[..., None] for part in intrinsics.unbind(-1))
        x = ((xs - cx) / fx)[..., None, :].expand(*c2w.shape[:-2], height, width)
        y = ((ys - cy) / fy)[..., :, None].expand_as(x)
        camera = torch.stack([x, y, torch.ones_like(x)], dim=-3)
        world = (c2w[..., :3, :3] @ camera.flatten(-2)).unflatten(-1, (height, width))
        # PyTorch's norm and cross product over an inner axis take a sixth of a small model's training step on a CPU.
        length = world.square().sum(dim=-3, keepdim=True).sqrt()
        direction = world / length.clamp(min=MIN_LENGTH)
        return c2w[..., :3, 3, None, None].expand_as(direction), direction


def plucker(
    c2w: Float[Tensor, "*b 4 4"], intrinsics: Float[Tensor, "*b 4"], height: int, width: int
) -> Float[Tensor, "*b 6 h w"]:
    """Return the Plücker coordinates (origin x direction, direction) of every pixel's ray."""
    origin, direction = rays(c2w, intrinsics, height, width)
    with full_precision(direction):
        moment = cross_matrix(origin[..., 0, 0]) @ direction.flatten(-2)
    return torch.cat([moment.view_as(direction), direction], dim=-3)


def cross_matrix(vector: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3 3"]:
    """Return the matrix that multiplies as the cross product with `vector` on the left does."""
    x, y, z = vector.unbind(-1)
    none = torch.zeros_like(x)
    rows = [none, -z, y, z, none, -x, -y, x, none]
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))
