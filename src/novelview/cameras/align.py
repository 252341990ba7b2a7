"""Sim(3) alignment of estimated to true cameras, and the errors that remain."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from novelview.errors import DataError

DEGENERATE = 1e-6  # relative to the largest singular value: below, a plane's turn is open


@dataclass(frozen=True)
class Similarity:
    """x -> scale * rotation @ x + translation; scale > 0 unless the source is a single point, where it is 0."""

    scale: Float[Tensor, "*b"]
    rotation: Float[Tensor, "*b 3 3"]
    translation: Float[Tensor, "*b 3"]

    def points(self, points: Float[Tensor, "*b n 3"]) -> Float[Tensor, "*b n 3"]:
        return self.scale[..., None, None] * points @ self.rotation.mT + self.translation[..., None, :]

    def cameras(self, c2w: Float[Tensor, "n 4 4"]) -> Float[Tensor, "n 4 4"]:
        """Move cameras: centres as points, orientations by the rotation alone."""
        moved = c2w.clone()
        moved[:, :3, :3] = self.rotation @ c2w[:, :3, :3]
        moved[:, :3, 3] = self.points(c2w[:, :3, 3])
        return moved


class _NearestRotation(torch.autograd.Function):
    """The rotation R that maximises trace(R^T C), for every matrix C.

    Its gradient is written out, as that of the SVD divides by differences of singular values. With C = U D V^T and p =
    D times the signs, dR = R V Z V^T for an antisymmetric Z with (p_i + p_j) Z_ij = (V^T (R^T dC - dC^T R) V)_ij. Where
    p_i + p_j vanishes, C leaves R open in that plane: the gradient there is 0."""

    @staticmethod
    def forward(ctx: Any, matrices: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3 3"]:
        left, values, right = torch.linalg.svd(matrices)
        signs = torch.ones_like(values)
        signs[..., 2] = torch.sign(torch.linalg.det(left) * torch.linalg.det(right))
        rotation = left * signs[..., None, :] @ right
        ctx.save_for_backward(rotation, values * signs, right)
        return rotation

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        rotation, values, right = ctx.saved_tensors
        inner = right @ rotation.mT @ gradient @ right.mT
        sums = values[..., :, None] + values[..., None, :]
        fixed = sums > DEGENERATE * values[..., :1, None]
        turn = torch.where(fixed, (inner - inner.mT) / torch.where(fixed, sums, 1), 0)
        return rotation @ right.mT @ turn @ right


def umeyama(
    source: Float[Tensor, "*b n 3"],
    target: Float[Tensor, "*b n 3"],
    prior: Float[Tensor, "*b 3 3"] | None = None,
    sound: bool = False,
) -> Similarity:
    """Return the similarity that brings `source` closest to `target` in least squares (Umeyama 1991), never mirrored.

    Differentiable; what the points leave open has no gradient. `prior` is added to the cross-covariance. Raises
    DataError unless there are as many points in both, at least one, all finite; `sound`: they are known to be, and a
    GPU is not waited for."""
    if source.shape != target.shape or 0 in source.shape:
        shapes = tuple(source.shape), tuple(target.shape)
        raise DataError("alignment needs as many points in both sets, got {}, {}".format(*shapes))
    means = source.mean(dim=-2, keepdim=True), target.mean(dim=-2, keepdim=True)
    one, two = source - means[0], target - means[1]
    covariance = two.mT @ one / source.shape[-2]
    if not (sound or bool(torch.isfinite(covariance.detach()).all())):
        raise DataError("alignment needs finite points; some are NaN, infinite or too large to be multiplied")
    rotation = _NearestRotation.apply(covariance if prior is None else covariance + prior)
    assert isinstance(rotation, Tensor)
    variance = one.square().sum(dim=(-2, -1)) / source.shape[-2]
    spread = variance > (8 * torch.finfo(source.dtype).eps * means[0].detach()).square().sum(dim=(-2, -1))
    scale = torch.where(spread, (rotation * covariance).sum(dim=(-2, -1)) / torch.where(spread, variance, 1), 0)
    shift = (means[1] - scale[..., None, None] * means[0] @ rotation.mT).squeeze(-2)
    return Similarity(scale, rotation, shift)


def fit_cameras(
    estimated: Float[Tensor, "n 4 4"], true: Float[Tensor, "n 4 4"], orientation_weight: float = 1e-6
) -> Similarity:
    """Return the similarity of cameras by their centres; by default orientations decide only what those leave open."""
    source, target = estimated[:, :3, 3], true[:, :3, 3]
    spread = [(points - points.mean(dim=0)).square().sum(dim=1).mean().sqrt() for points in (source, target)]
    orientations = (true[:, :3, :3] @ estimated[:, :3, :3].mT).mean(dim=0)
    weight = orientation_weight * torch.clamp(spread[0] * spread[1], min=1e-30)
    return umeyama(source, target, prior=weight * orientations)


def rotation_error_deg(estimated: Float[Tensor, "n 4 4"], true: Float[Tensor, "n 4 4"]) -> Float[Tensor, " n"]:
    """Return the angle in degrees, in [0,180], between the orientations of each pair of cameras."""
    relative = estimated[:, :3, :3].mT @ true[:, :3, :3]
    turn = relative - relative.mT
    skew = torch.stack([turn[:, 2, 1], turn[:, 0, 2], turn[:, 1, 0]], dim=-1)
    trace = relative.diagonal(dim1=-2, dim2=-1).sum(-1)
    # atan2 of twice the sine and twice the cosine: exact near 0 and 180 degrees, where arccos alone is not
    return torch.rad2deg(torch.atan2(skew.norm(dim=-1), trace - 1))


def translation_error(estimated: Float[Tensor, "n 4 4"], true: Float[Tensor, "n 4 4"]) -> Float[Tensor, " n"]:
    """Return the distance between the centres of each pair of cameras, in the units of the true ones."""
    return (estimated[:, :3, 3] - true[:, :3, 3]).norm(dim=-1)
