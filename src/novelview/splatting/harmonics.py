"""Real spherical harmonics of 3D Gaussian splatting, degrees 0 to 4 (specs/rasterizer.md section 2)."""

from math import isqrt, pi, sqrt

import torch
from jaxtyping import Float
from torch import Tensor

MAX_DEGREE = 4
C0 = 0.5 / sqrt(pi)  # 0.28209479, the constant basis function


def degree_of(coefficients: int) -> int:
    """Return the degree of a number of coefficients. Raises ValueError unless it is 1, 4, 9, 16 or 25."""
    degree = isqrt(coefficients) - 1
    if not 0 <= degree <= MAX_DEGREE or (degree + 1) ** 2 != coefficients:
        raise ValueError(f"spherical harmonics have 1, 4, 9, 16 or 25 coefficients, got {coefficients}")
    return degree


def sh_basis(directions: Float[Tensor, "*n 3"], degree: int) -> Float[Tensor, "*n k"]:
    """Return the basis at unit directions, k = (degree + 1)^2, in the order l^2 + l + m."""
    x, y, z = directions.unbind(-1)
    bands = [[torch.full_like(x, C0)]]
    if degree >= 1:
        c = sqrt(3 / (4 * pi))
        bands.append([-c * y, c * z, -c * x])
    if degree >= 2:
        bands.append(_second(x, y, z))
    if degree >= 3:
        bands.append(_third(x, y, z))
    if degree >= 4:
        bands.append(_fourth(x, y, z))
    return torch.stack([value for band in bands for value in band], dim=-1)


def _second(x: Tensor, y: Tensor, z: Tensor) -> list[Tensor]:
    c = sqrt(15 / pi) / 2
    middle = sqrt(5 / pi) / 4 * (2 * z * z - x * x - y * y)
    return [c * x * y, -c * y * z, middle, -c * x * z, c / 2 * (x * x - y * y)]


def _third(x: Tensor, y: Tensor, z: Tensor) -> list[Tensor]:
    xx, yy, zz = x * x, y * y, z * z
    outer, inner, c = sqrt(35 / (2 * pi)) / 4, sqrt(21 / (2 * pi)) / 4, sqrt(105 / pi) / 2
    return [
        -outer * y * (3 * xx - yy),
        c * x * y * z,
        -inner * y * (4 * zz - xx - yy),
        sqrt(7 / pi) / 4 * z * (2 * zz - 3 * xx - 3 * yy),
        -inner * x * (4 * zz - xx - yy),
        c / 2 * z * (xx - yy),
        -outer * x * (xx - 3 * yy),
    ]


def _fourth(x: Tensor, y: Tensor, z: Tensor) -> list[Tensor]:
    xx, yy, zz = x * x, y * y, z * z
    c35, c35h, c5, c5h = (0.75 * sqrt(value / pi) for value in (35, 35 / 2, 5, 5 / 2))
    return [
        c35 * x * y * (xx - yy),
        -c35h * y * z * (3 * xx - yy),
        c5 * x * y * (7 * zz - 1),
        -c5h * y * z * (7 * zz - 3),
        3 / (16 * sqrt(pi)) * (35 * zz * zz - 30 * zz + 3),
        -c5h * x * z * (7 * zz - 3),
        c5 / 2 * (xx - yy) * (7 * zz - 1),
        -c35h * x * z * (xx - 3 * yy),
        c35 / 4 * (xx * (xx - 3 * yy) - yy * (3 * xx - yy)),
    ]


def sh_colors(
    harmonics: Float[Tensor, "n 3 k"], directions: Float[Tensor, "n 3"], axes: str = "xyz", max_degree: int = MAX_DEGREE
) -> Float[Tensor, "n 3"]:
    """Return colours >= 0: the expansion at the directions (normalised here) + 0.5, negative values cut to 0.

    axes: which component of a direction stands for x, y and z of the basis; DepthSplat's renderer reads "zxy"
    (specs/depthsplat.md section 9). Bands above `max_degree` are ignored.
    """
    degree = min(degree_of(harmonics.shape[-1]), max_degree)
    unit = torch.nn.functional.normalize(directions, dim=-1, eps=1e-12)
    basis = sh_basis(_reordered(unit, axes), degree)
    return torch.clamp((harmonics[..., : basis.shape[-1]] * basis[..., None, :]).sum(dim=-1) + 0.5, min=0)


def viewer_harmonics(harmonics: Float[Tensor, "n 3 k"], axes: str) -> Float[Tensor, "n 3 k"]:
    """Return the coefficients that give with axes "xyz" what these give with `axes`."""
    degree = degree_of(harmonics.shape[-1])
    seeds = torch.randn(8 * harmonics.shape[-1], 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    directions = torch.nn.functional.normalize(seeds, dim=-1)
    plain, moved = sh_basis(directions, degree), sh_basis(_reordered(directions, axes), degree)
    change = torch.linalg.lstsq(plain, moved).solution  # exact: moving the axes maps every band to itself
    return harmonics @ change.mT.to(harmonics)


def _reordered(directions: Float[Tensor, "*n 3"], axes: str) -> Float[Tensor, "*n 3"]:
    return torch.stack([directions[..., "xyz".index(axis)] for axis in axes], dim=-1)
