"""From Gaussians to ellipses on an image, and to the tiles these can touch (specs/rasterizer.md section 1)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from novelview.errors import ConfigError

MIN_DETERMINANT = 1e-10  # px^4, matters without blur only (eps2d = 0)
TILE = 4  # pixels a side: larger ones evaluate more pixels in vain
MIN_ALPHA = 1 / 255
INRIA_TILE = 16
MEMBERS = 2**22  # of (tile, Gaussian) pairs listed at a time; bounds the memory of sorting them

Bounds = Int[Tensor, "m 4"]  # first tile column and row, then one past the last


@dataclass(frozen=True)
class Settings:
    """width, height: pixels. near < z < far is drawn. eps2d: px^2 added to the variances on the image.

    alpha_max: the largest alpha of one Gaussian. three_sigma: the INRIA kernel's shorter extent."""

    width: int
    height: int
    near: float = 0.01
    far: float = 1e10
    eps2d: float = 0.3
    alpha_max: float = 0.99
    three_sigma: bool = False

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ConfigError(f"an image has at least one pixel, got width {self.width}, height {self.height}")
        if not 0 < self.near < self.far:
            raise ConfigError(f"0 < near < far must hold, got near {self.near}, far {self.far}")


@dataclass(frozen=True)
class Camera:
    """viewmat: world to camera, OpenCV, scene units. K: pixels."""

    viewmat: Float[Tensor, "4 4"]
    K: Float[Tensor, "3 3"]


@dataclass(frozen=True)
class Ellipses:
    """Gaussians between the planes, nearest first: `index` into those given; pixel units, pixel centres at +0.5.

    conics: inverse 2D covariances a b c, b off the diagonal. variances: xx xy yy of the 2D covariances, no gradient."""

    index: Int[Tensor, " m"]
    means: Float[Tensor, "m 2"]
    conics: Float[Tensor, "m 3"]
    depths: Float[Tensor, " m"]
    variances: Float[Tensor, "m 3"]


def pinhole_matrices(intrinsics: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 3 3"]:
    """Return the 3x3 matrices of fx fy cx cy."""
    fx, fy, cx, cy = intrinsics.unbind(-1)
    zero, one = torch.zeros_like(fx), torch.ones_like(fx)
    return torch.stack([fx, zero, cx, zero, fy, cy, zero, zero, one], dim=-1).unflatten(-1, (3, 3))


def project(
    means: Float[Tensor, "n 3"], covariances: Float[Tensor, "n 3 3"], camera: Camera, settings: Settings
) -> Ellipses:
    """Project Gaussians, drop those not between the planes, and order the others by depth (stable).

    A Gaussian whose 2D covariance is not positive definite in the numbers' precision is dropped, too. On the device
    `meta`, which has no values, none is dropped."""
    z = means.detach() @ camera.viewmat[2, :3] + camera.viewmat[2, 3]
    between = (z > settings.near) & (z < settings.far)
    index = torch.arange(len(z), device=z.device) if z.is_meta else torch.nonzero(between).squeeze(-1)
    index = index[torch.argsort(z[index], stable=True)]
    points, variances = _image_shapes(means, covariances, index, camera, settings)
    sound = _determinant(variances.detach())[0] > 0
    # Projected again: where values overflow, dropping alone leaves gradients of 0 * infinity.
    if not (z.is_meta or bool(sound.all())):
        index = index[sound]
        points, variances = _image_shapes(means, covariances, index, camera, settings)
    x, y, z = points.unbind(-1)
    centres = torch.stack([x / z, y / z], dim=-1) * camera.K[[0, 1], [0, 1]] + camera.K[:2, 2]
    return Ellipses(index, centres, _conics(variances), z, variances.detach())


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

    Undivided it leaves the range of float32 at standard deviations of 1e9 pixels."""
    size = torch.clamp(torch.maximum(variances[:, 0], variances[:, 2]).detach(), min=1e-20)
    xx, xy, yy = (variances / size[:, None]).unbind(-1)
    return xx * yy - xy * xy, size


def _conics(variances: Tensor) -> Float[Tensor, "m 3"]:
    determinant, size = _determinant(variances)
    smallest = torch.clamp(MIN_DETERMINANT / size**2, min=torch.finfo(size.dtype).tiny)
    xx, xy, yy = (variances / size[:, None]).unbind(-1)
    return torch.stack([yy, -xy, xx], dim=-1) / (torch.maximum(determinant, smallest) * size)[:, None]


@dataclass(frozen=True)
class TileLists:
    """Tiles that anything touches (row-major numbers), and their Gaussians, each list front to back."""

    tiles: Int[Tensor, " t"]
    starts: Int[Tensor, " t"]
    counts: Int[Tensor, " t"]
    members: Int[Tensor, " l"]


def tile_counts(settings: Settings) -> tuple[int, int]:
    """Return the number of columns and rows of tiles that cover the image."""
    return -(-settings.width // TILE), -(-settings.height // TILE)


def tile_origins(tiles: Int[Tensor, " t"], settings: Settings) -> tuple[Int[Tensor, " t"], Int[Tensor, " t"]]:
    """Return the pixel column and row at which tiles begin in their image; numbers run on from image to image."""
    columns, rows = tile_counts(settings)
    return tiles % columns * TILE, tiles // columns % rows * TILE


def stack_bounds(bounds: Sequence[Bounds], settings: Settings) -> Bounds:
    """Return the bounds of several images' Gaussians as those of one column of images, one below the other."""
    _, rows = tile_counts(settings)
    step = torch.tensor([0, rows, 0, rows], device=bounds[0].device)
    return torch.cat([own + number * step for number, own in enumerate(bounds)])


@torch.no_grad()
def tile_bounds(ellipses: Ellipses, opacities: Float[Tensor, " m"], settings: Settings) -> Bounds:
    """Return the tiles within which each Gaussian's alpha can reach 1/255; none where it cannot.

    three_sigma cuts, besides, at the 16-pixel tiles that the INRIA kernel's square of 3 standard deviations meets."""
    reach = torch.sqrt(2 * torch.log(torch.clamp(opacities, min=MIN_ALPHA) * 255))
    extent = (reach * 1.0001 + 1e-4)[:, None] * torch.sqrt(ellipses.variances[:, [0, 2]])
    low, high = ellipses.means - extent - 0.5, ellipses.means + extent - 0.5
    first, last = torch.ceil(low) // TILE, torch.floor(high) // TILE + 1
    if settings.three_sigma:
        cut_first, cut_last = _three_sigma(ellipses)
        first, last = torch.maximum(first, cut_first), torch.minimum(last, cut_last)
    size = first.new_tensor(tile_counts(settings))
    first, last = torch.clamp(first, min=0), torch.minimum(last, size)
    empty = (opacities < MIN_ALPHA) | ~(last > first).all(dim=-1)
    bounds = torch.cat([first, last], dim=-1)
    return torch.where(empty[:, None], torch.zeros_like(bounds), bounds).long()


def _three_sigma(ellipses: Ellipses) -> tuple[Tensor, Tensor]:
    xx, xy, yy = ellipses.variances.unbind(-1)
    largest = 0.5 * (xx + yy) + torch.clamp(torch.hypot(0.5 * (xx - yy), xy), min=0.1**0.5)
    radius = torch.ceil(3 * torch.sqrt(largest))[:, None]
    scale = INRIA_TILE // TILE
    low, high = ellipses.means - 0.5 - radius, ellipses.means - 0.5 + radius + INRIA_TILE - 1
    return torch.trunc(low / INRIA_TILE) * scale, torch.trunc(high / INRIA_TILE) * scale


def slabs(bounds: Bounds) -> Iterator[slice]:
    """Split the Gaussians, front to back, so that each part touches about `MEMBERS` tiles at most."""
    touched = (bounds[:, 2:] - bounds[:, :2]).prod(dim=-1)
    before = touched.cumsum(0) - touched
    _, counts = torch.unique_consecutive(before // MEMBERS, return_counts=True)
    first = 0
    for count in counts.tolist():
        yield slice(first, first + count)
        first += count


def list_tiles(bounds: Bounds, slab: slice, alive: Bool[Tensor, " t"], columns: int) -> TileLists:
    """List a slab's Gaussians by those tiles that still take any."""
    first, size = bounds[slab, :2], bounds[slab, 2:] - bounds[slab, :2]
    touched = size.prod(dim=-1)
    owner = torch.repeat_interleave(torch.arange(len(touched), device=bounds.device), touched)
    step = torch.arange(len(owner), device=bounds.device) - (touched.cumsum(0) - touched)[owner]
    across = size[owner, 0]
    tile = (first[owner, 1] + step // across) * columns + first[owner, 0] + step % across
    kept = alive[tile]
    tile, order = torch.sort(tile[kept], stable=True)
    tiles, counts = torch.unique_consecutive(tile, return_counts=True)
    return TileLists(tiles, counts.cumsum(0) - counts, counts, owner[kept][order] + slab.start)
