"""Covariances of 3D Gaussians from quaternions and scales, and back."""

import torch
from jaxtyping import Float
from torch import Tensor

from novelview.cameras.poses import mat_to_quat, quat_to_mat


def covariance_of(quats: Float[Tensor, "*n 4"], scales: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3 3"]:
    """Return R diag(scales^2) R^T; scales are standard deviations in scene units.

    quats: w x y z of any length; a zero quaternion turns nothing.
    """
    zero = (quats == 0).all(dim=-1, keepdim=True)
    turned = torch.where(zero, quats.new_tensor([1, 0, 0, 0]), quats)
    half = quat_to_mat(turned.roll(-1, dims=-1)) * scales[..., None, :]
    return half @ half.mT


def quats_and_scales(
    covariances: Float[Tensor, "*n 3 3"],
) -> tuple[Float[Tensor, "*n 4"], Float[Tensor, "*n 3"]]:
    """Return unit quaternions w x y z and standard deviations, ascending, whose covariances these are."""
    variances, axes = torch.linalg.eigh(covariances)
    axes = axes * torch.linalg.det(axes).sign()[..., None, None]
    return mat_to_quat(axes).roll(1, dims=-1), torch.sqrt(torch.clamp(variances, min=0))
