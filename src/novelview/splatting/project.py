"""From Gaussians in the world to ellipses on the image of one pinhole camera (specs/rasterizer.md section 1)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

MIN_DETERMINANT = 1e-10  # px^4, matters without blur only (eps2d = 0)


@dataclass(frozen=True)
class Camera:
    """viewmat: world to camera, OpenCV, scene units. K, width, height: pixels. near < z < far is drawn."""

    viewmat: Float[Tensor, "4 4"]
    K: Float[Tensor, "3 3"]
    width: int
    height: int
    near: float
    far: float


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


def project(means: Float[Tensor, "n 3"], covariances: Float[Tensor, "n 3 3"], camera: Camera, eps2d: float) -> Ellipses:
    """Project Gaussians, drop those not between the planes, and order the others by depth (stable).

    eps2d is added to the variances on the image, in px^2. A Gaussian whose 2D covariance is not positive definite in
    the numbers' precision is dropped.
    """
    index = _visible(means.detach(), camera)
    rotation, translation = camera.viewmat[:3, :3], camera.viewmat[:3, 3]
    points = means[index] @ rotation.mT + translation
    variances = _image_covariance(points, rotation @ covariances[index] @ rotation.mT, camera)
    variances = variances + eps2d * variances.new_tensor([1, 0, 1])
    sound = _determinant(variances.detach())[0] > 0
    if not bool(sound.all()):
        index, points, variances = index[sound], points[sound], variances[sound]
    x, y, z = points.unbind(-1)
    centres = torch.stack([x / z, y / z], dim=-1) * camera.K[[0, 1], [0, 1]] + camera.K[:2, 2]
    return Ellipses(index, centres, _conics(variances), z, variances.detach())


def _visible(means: Tensor, camera: Camera) -> Tensor:
    z = means @ camera.viewmat[2, :3] + camera.viewmat[2, 3]
    index = torch.nonzero((z > camera.near) & (z < camera.far)).squeeze(-1)
    return index[torch.argsort(z[index], stable=True)]


def _image_covariance(points: Tensor, covariances: Tensor, camera: Camera) -> Float[Tensor, "m 3"]:
    """Return xx, xy, yy of J C J^T, with J at the direction clamped to a little more than the image."""
    x, y, z = points.unbind(-1)
    slopes = []
    for value, axis, size in ((x, 0, camera.width), (y, 1, camera.height)):
        focal, centre = camera.K[axis, axis], camera.K[axis, 2]
        margin = 0.15 * size / focal
        slopes.append(torch.clamp(value / z, -centre / focal - margin, (size - centre) / focal + margin))
    zero = torch.zeros_like(z)
    across = camera.K[0, 0] / z[:, None] * torch.stack([torch.ones_like(z), zero, -slopes[0]], dim=-1)
    down = camera.K[1, 1] / z[:, None] * torch.stack([zero, torch.ones_like(z), -slopes[1]], dim=-1)
    jacobian = torch.stack([across, down], dim=-2)
    image = jacobian @ covariances @ jacobian.mT
    both = 0.5 * (image[:, 0, 1] + image[:, 1, 0])  # so that the gradient of a covariance is symmetric
    return torch.stack([image[:, 0, 0], both, image[:, 1, 1]], dim=-1)


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
