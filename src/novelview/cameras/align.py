"""Sim(3) alignment of estimated to true cameras, and the errors that remain."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from novelview.errors import DataError

ORIENTATION_WEIGHT = 1e-6  # of orientations beside centres: decides only the turn that collinear centres leave open


@dataclass(frozen=True)
class Similarity:
    """x -> scale * rotation @ x + translation; scale > 0 unless the source is a single point."""

    scale: Float[Tensor, ""]
    rotation: Float[Tensor, "3 3"]
    translation: Float[Tensor, " 3"]

    def points(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """Move points."""
        return self.scale * points @ self.rotation.mT + self.translation

    def cameras(self, c2w: Float[Tensor, "n 4 4"]) -> Float[Tensor, "n 4 4"]:
        """Move cameras: centres as points, orientations by the rotation alone."""
        moved = c2w.clone()
        moved[:, :3, :3] = self.rotation @ c2w[:, :3, :3]
        moved[:, :3, 3] = self.points(c2w[:, :3, 3])
        return moved


def umeyama(
    source: Float[Tensor, "n 3"], target: Float[Tensor, "n 3"], prior: Float[Tensor, "3 3"] | None = None
) -> Similarity:
    """Return the similarity that brings `source` closest to `target` in least squares (Umeyama 1991).

    `prior` is added to the cross-covariance before its SVD. Raises DataError unless there are as many points in both,
    at least one.
    """
    if source.shape != target.shape or len(source) == 0:
        raise DataError(
            f"alignment needs as many points in both sets, got {tuple(source.shape)}, {tuple(target.shape)}"
        )
    means = source.mean(dim=0), target.mean(dim=0)
    one, two = source - means[0], target - means[1]
    covariance = two.mT @ one / len(source)
    left, _, right = torch.linalg.svd(covariance if prior is None else covariance + prior)
    signs = torch.ones(3, dtype=source.dtype, device=source.device)
    signs[2] = torch.sign(torch.linalg.det(left) * torch.linalg.det(right))
    rotation = left @ torch.diag(signs) @ right
    variance = one.square().sum() / len(source)
    scale = (rotation * covariance).sum() / variance if variance > 0 else torch.zeros_like(variance)
    return Similarity(scale, rotation, means[1] - scale * rotation @ means[0])


def align_cameras(estimated: Float[Tensor, "n 4 4"], true: Float[Tensor, "n 4 4"]) -> Float[Tensor, "n 4 4"]:
    """Return the estimated cameras after the similarity that fits their centres to the true ones.

    Where the centres are collinear (a straight dolly), the turn about their line follows from the orientations.
    """
    source, target = estimated[:, :3, 3], true[:, :3, 3]
    spread = [(points - points.mean(dim=0)).square().sum(dim=1).mean().sqrt() for points in (source, target)]
    orientations = (true[:, :3, :3] @ estimated[:, :3, :3].mT).mean(dim=0)
    weight = ORIENTATION_WEIGHT * torch.clamp(spread[0] * spread[1], min=1e-30)
    return umeyama(source, target, prior=weight * orientations).cameras(estimated)


def rotation_error_deg(estimated: Float[Tensor, "n 4 4"], true: Float[Tensor, "n 4 4"]) -> Float[Tensor, " n"]:
    """Return the angle in degrees, in [0,180], between the orientations of each pair of cameras."""
    relative = estimated[:, :3, :3].mT @ true[:, :3, :3]
    skew = torch.stack([relative[:, 2, 1], relative[:, 0, 2], relative[:, 1, 0]], dim=-1)
    skew = skew - torch.stack([relative[:, 1, 2], relative[:, 2, 0], relative[:, 0, 1]], dim=-1)
    trace = relative.diagonal(dim1=-2, dim2=-1).sum(-1)
    # atan2 of twice the sine and twice the cosine: exact near 0 and 180 degrees, where arccos alone is not
    return torch.rad2deg(torch.atan2(skew.norm(dim=-1), trace - 1))


def translation_error(estimated: Float[Tensor, "n 4 4"], true: Float[Tensor, "n 4 4"]) -> Float[Tensor, " n"]:
    """Return the distance between the centres of each pair of cameras, in the units of the true ones."""
    return (estimated[:, :3, 3] - true[:, :3, 3]).norm(dim=-1)
