"""Rotation of spherical harmonics by Wigner matrices, polar axis y (specs/depthsplat.md section 9)."""

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from novelview.splatting.gaussians import degree_of, sh_basis

DIRECTIONS = 64  # more than the 2l+1 that fix a block, so that the least squares are well conditioned
GOLDEN = 2.399963229728653  # angle in radians


def harmonics_y(directions: Float[Tensor, "*n 3"], degree: int) -> Float[Tensor, "*n k"]:
    """Return the real harmonics with polar axis y: degree 1 is proportional to (x, y, z)."""
    x, y, z = directions.unbind(-1)
    basis = sh_basis(torch.stack([z, x, y], dim=-1), degree)
    return basis * signs(degree).to(basis)


def signs(degree: int) -> Float[Tensor, " k"]:
    """Return (-1)^m of every coefficient, which is what these harmonics and the renderer's differ by."""
    return torch.cat([(-1.0) ** torch.arange(-band, band + 1).abs() for band in range(degree + 1)])


@cache
def _sphere() -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return directions spread over the sphere, and the pseudoinverse of each band's values there."""
    y = 1 - (2 * torch.arange(DIRECTIONS, dtype=torch.float64) + 1) / DIRECTIONS
    angle, radius = torch.arange(DIRECTIONS, dtype=torch.float64) * GOLDEN, (1 - y * y).sqrt()
    points = torch.stack([radius * angle.cos(), y, radius * angle.sin()], dim=-1)
    basis = harmonics_y(points, 4)
    return points, tuple(torch.linalg.pinv(basis[:, band**2 : (band + 1) ** 2].mT) for band in range(5))


def wigner(rotation: Float[Tensor, "*b 3 3"], degree: int) -> list[Float[Tensor, "*b m m"]]:
    """Return the matrices D of bands 0 to `degree`, Y(R d) = D Y(d), in float64; band 1 is R itself."""
    points, inverses = _sphere()
    turned = points.to(rotation.device) @ rotation.double().mT
    basis = harmonics_y(turned, degree).mT
    bands = (basis[..., band**2 : (band + 1) ** 2, :] for band in range(degree + 1))
    return [values @ inverse.to(rotation.device) for values, inverse in zip(bands, inverses, strict=False)]


def rotate_sh(
    harmonics: Float[Tensor, "*b n k"], rotation: Float[Tensor, "*b 3 3"], equivariant: bool = False
) -> Float[Tensor, "*b n k"]:
    """Turn n sets of coefficients each by a rotation (camera to world), degrees 0 to 4.

    Published weights expect D in the order of harmonics with polar axis y, although the renderer's differ by (-1)^m,
    so that colours do not turn exactly with the camera; `equivariant` mends that.
    """
    degree = degree_of(harmonics.shape[-1])
    sign = signs(degree).to(harmonics)
    turned = []
    for band, matrix in enumerate(wigner(rotation, degree)):
        part = slice(band**2, (band + 1) ** 2)
        values = harmonics[..., part] * sign[part] if equivariant else harmonics[..., part]
        values = values @ matrix.to(harmonics.dtype).mT
        turned.append(values * sign[part] if equivariant else values)
    return torch.cat(turned, dim=-1)
