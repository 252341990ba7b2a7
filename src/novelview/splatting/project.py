"""From Gaussians in the world to ellipses on the image of one pinhole camera (specs/rasterizer.md section 1)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from novelview.splatting.settings import Settings

MIN_DETERMINANT = 1e-10  # px^4, matters without blur only (eps2d = 0)


@dataclass(frozen=True)
class Camera:
    """viewmat: world to camera, OpenCV, scene units. K: pixels."""

    viewmat: Float[Tensor, "4 4"]
    K: Float[Tensor, "3 3"]


@dataclass(frozen=True)
class Ellipses:
    """Gaussians between the planes, nearest first: `index` into those given; pixel units, pixel centres at +0.5.

    conics: inverse 2D covariances a b c, b off the diagonal. variances: xx xy yy of the 2D covariances, no gradient.
    """

    index: Int[Tensor, " m"]
    means: Float[Tensor, "m 2"]
    conics: Float[Tensor, "m 3"]
    depths: Float[Tensor, " m"]
    variances: Float[Tensor, "m 3"]


def project(
    means: Float[Tensor, "n 3"], covariances: Float[Tensor, "n 3 3"], camera: Camera, settings: Settings
) -> Ellipses:
    """Project Gaussians, drop those not between the planes, and order the others by depth (stable).

    A Gaussian whose 2D covariance is not positive definite in the numbers' precision is dropped, too.
    """
    index = _visible(means.detach(), camera, settings)
    points, variances = _image_shapes(means, covariances, index, camera, settings)
    sound = _determinant(variances.detach())[0] > 0
    if not bool(sound.all()):  # project again: where values overflow, dropping alone leaves gradients of 0 * infinity
        index = index[sound]
        points, variances = _image_shapes(means, covariances, index, camera, settings)
    x, y, z = points.unbind(-1)
    centres = torch.stack([x / z, y / z], dim=-1) * camera.K[[0, 1], [0, 1]] + camera.K[:2, 2]
    return Ellipses(index, centres, _conics(variances), z, variances.detach())


def _visible(means: Tensor, camera: Camera, settings: Settings) -> Int[Tensor, " m"]:
    z = means @ camera.viewmat[2, :3] + camera.viewmat[2, 3]
    index = torch.nonzero((z > settings.near) & (z < settings.far)).squeeze(-1)
    return index[torch.argsort(z[index], stable=True)]


def _image_shapes(
    means: Tensor, covariances: Tensor, index: Tensor, camera: Camera, settings: Settings
) -> tuple[Float[Tensor, "m 3"], Float[Tensor, "m 3"]]:
    """Return points in the camera's frame, and xx, xy, yy of their covariances on the image."""
    rotation = camera.viewmat[:3, :3]
    points = means[index] @ rotation.mT + camera.viewmat[:3, 3]
    half = _jacobian(points, camera.K, settings) @ rotation
    image = half @ covariances[index] @ half.mT
    both = 0.5 * (image[:, 0, 1] + image[:, 1, 0])  # so that the gradient of a covariance is symmetric
    return points, torch.stack([image[:, 0, 0] + settings.eps2d, both, image[:, 1, 1] + settings.eps2d], dim=-1)


def _jacobian(points: Tensor, K: Tensor, settings: Settings) -> Float[Tensor, "m 2 3"]:
    """Return the derivative of the projection, its direction clamped to a little more than the image."""
    x, y, z = points.unbind(-1)
    slopes = []
    for value, axis, size in ((x, 0, settings.width), (y, 1, settings.height)):
        focal, centre = K[axis, axis], K[axis, 2]
        margin = 0.15 * size / focal
        slopes.append(torch.clamp(value / z, -centre / focal - margin, (size - centre) / focal + margin))
    one, zero = torch.ones_like(z), torch.zeros_like(z)
    across = torch.stack([one, zero, -slopes[0]], dim=-1) * (K[0, 0] / z[:, None])
    down = torch.stack([zero, one, -slopes[1]], dim=-1) * (K[1, 1] / z[:, None])
    return torch.stack([across, down], dim=-2)


def _determinant(variances: Tensor) -> tuple[Tensor, Tensor]:
    """Return the determinant of the covariances divided by their larger variance, and that variance.

    Undivided it leaves the range of float32 at standard deviations of 1e9 pixels.
    """
    size = torch.clamp(torch.maximum(variances[:, 0], variances[:, 2]).detach(), min=1e-20)
    xx, xy, yy = (variances / size[:, None]).unbind(-1)
    return xx * yy - xy * xy, size


def _conics(variances: Tensor) -> Float[Tensor, "m 3"]:
    determinant, size = _determinant(variances)
    smallest = torch.clamp(MIN_DETERMINANT / size**2, min=torch.finfo(size.dtype).tiny)
    xx, xy, yy = (variances / size[:, None]).unbind(-1)
    return torch.stack([yy, -xy, xx], dim=-1) / (torch.maximum(determinant, smallest) * size)[:, None]
