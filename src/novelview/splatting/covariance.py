"""Covariances of 3D Gaussians from quaternions and scales."""

import torch
from jaxtyping import Float
from torch import Tensor


def rotation_of(quats: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 3 3"]:
    """Return the rotations of quaternions w x y z of any length > 0; a zero quaternion gives no rotation."""
    zero = (quats == 0).all(dim=-1, keepdim=True)
    identity = torch.tensor([1.0, 0, 0, 0], dtype=quats.dtype, device=quats.device)
    w, x, y, z = torch.nn.functional.normalize(torch.where(zero, identity, quats), dim=-1).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def covariance_of(quats: Float[Tensor, "*n 4"], scales: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3 3"]:
    """Return R diag(scales^2) R^T; quats w x y z, scales are standard deviations in scene units."""
    half = rotation_of(quats) * scales[..., None, :]
    return half @ half.mT
