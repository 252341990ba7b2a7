"""3D Gaussians: their covariances, their colours (real spherical harmonics, degrees 0 to 4), and PLY files of them.

Harmonics: specs/rasterizer.md section 2, coefficients in the order l^2 + l + m."""

from dataclasses import dataclass
from math import isqrt, pi, sqrt
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from novelview.cameras.poses import mat_to_quat, quat_to_mat
from novelview.errors import DataError
from novelview.files import write_bytes

MAX_DEGREE = 4
C0 = 0.5 / sqrt(pi)  # 0.28209479, the constant basis function
PLY_DEGREE = 3  # what viewers draw
SMALLEST = 1e-10  # scale whose logarithm is still written
OPACITY_MARGIN = 1e-6  # opacities are written as logits


@dataclass(frozen=True)
class Gaussians:
    """Gaussians of b scenes; in feed-forward models n is view-major, then row-major pixels.

    means: world coordinates (OpenCV), scene units. covariances: world, symmetric, scene units squared. opacities:
    [0,1]. harmonics: SH coefficients of red, green, blue, k = (degree + 1)^2."""

    means: Float[Tensor, "b n 3"]
    covariances: Float[Tensor, "b n 3 3"]
    opacities: Float[Tensor, "b n"]
    harmonics: Float[Tensor, "b n 3 k"]

    def take(self, scene: int) -> "Gaussians":
        """Return one scene as a batch of one."""
        return Gaussians(*(value[scene : scene + 1] if scene != -1 else value[-1:] for value in self.tensors()))

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return means, covariances, opacities, harmonics."""
        return self.means, self.covariances, self.opacities, self.harmonics


def covariance_of(quats: Float[Tensor, "*n 4"], scales: Float[Tensor, "*n 3"]) -> Float[Tensor, "*n 3 3"]:
    """Return R diag(scales^2) R^T; scales are standard deviations in scene units.

    quats: w x y z of any length; a zero quaternion turns nothing."""
    zero = (quats == 0).all(dim=-1, keepdim=True)
    turned = torch.where(zero, quats.new_tensor([1, 0, 0, 0]), quats)
    half = quat_to_mat(turned.roll(-1, dims=-1)) * scales[..., None, :]
    return half @ half.mT


def quats_and_scales(covariances: Float[Tensor, "*n 3 3"]) -> tuple[Float[Tensor, "*n 4"], Float[Tensor, "*n 3"]]:
    """Return unit quaternions w x y z and standard deviations, ascending, whose covariances these are."""
    variances, axes = torch.linalg.eigh(covariances)
    axes = axes * torch.linalg.det(axes).sign()[..., None, None]
    return mat_to_quat(axes).roll(1, dims=-1), torch.sqrt(torch.clamp(variances, min=0))


def degree_of(coefficients: int) -> int:
    """Return the degree of a number of coefficients. Raises ValueError unless it is 1, 4, 9, 16 or 25."""
    degree = isqrt(coefficients) - 1
    if not 0 <= degree <= MAX_DEGREE or (degree + 1) ** 2 != coefficients:
        raise ValueError(f"spherical harmonics have 1, 4, 9, 16 or 25 coefficients, got {coefficients}")
    return degree


def sh_basis(directions: Float[Tensor, "*n 3"], degree: int) -> Float[Tensor, "*n k"]:
    """Return the basis at unit directions, k = (degree + 1)^2."""
    x, y, z = directions.unbind(-1)
    bands = [[torch.full_like(x, C0)]]
    if degree >= 1:
        c = sqrt(3 / (4 * pi))
        bands.append([-c * y, c * z, -c * x])
    if degree >= 2:
        c, middle = sqrt(15 / pi) / 2, sqrt(5 / pi) / 4 * (2 * z * z - x * x - y * y)
        bands.append([c * x * y, -c * y * z, middle, -c * x * z, c / 2 * (x * x - y * y)])
    if degree >= 3:
        bands.append(_third(x, y, z))
    if degree >= 4:
        bands.append(_fourth(x, y, z))
    return torch.stack([value for band in bands for value in band], dim=-1)


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
    (specs/depthsplat.md section 9). Bands above `max_degree` are ignored."""
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


def write_ply(path: Path | str, gaussians: Gaussians, sh_axes: str = "zxy") -> None:
    """Write one scene's Gaussians: world coordinates (OpenCV), scales as logarithms, opacities as logits, w x y z.

    sh_axes: what `sh_colors` was given for these harmonics; DepthSplat's by default. The coefficients are turned so
    that viewers, which read "xyz", show the same colours; bands above 3 are left out. Raises DataError for more than
    one scene and for values that are not finite."""
    if len(gaussians.means) != 1:
        raise DataError(f"{path}: a PLY file holds one scene, got {len(gaussians.means)}; use Gaussians.take")
    if not all(bool(torch.isfinite(value).all()) for value in gaussians.tensors()):
        raise DataError(f"{path}: Gaussians with values that are not finite cannot be written")
    columns = _columns(gaussians, sh_axes)
    table = torch.cat(list(columns.values()), dim=1).cpu().numpy().astype("<f4")
    write_bytes(path, _header(columns, len(table)).encode("ascii") + table.tobytes())


def _columns(gaussians: Gaussians, sh_axes: str) -> dict[str, Float[Tensor, "n k"]]:
    means, covariances, opacities, harmonics = (value[0].detach().double() for value in gaussians.tensors())
    quats, scales = quats_and_scales(covariances)
    bands = min(degree_of(harmonics.shape[-1]), PLY_DEGREE) + 1
    harmonics = viewer_harmonics(harmonics[..., : bands**2], sh_axes)
    opacity = torch.logit(opacities, eps=OPACITY_MARGIN)
    return {
        "xyz": means,
        "normals": torch.zeros_like(means),
        "f_dc": harmonics[..., 0],
        "f_rest": harmonics[..., 1:].flatten(1),  # all of red, then green, then blue
        "opacity": opacity[:, None],
        "scale": torch.log(torch.clamp(scales, min=SMALLEST)),
        "rot": quats,
    }


def _header(columns: dict[str, Tensor], count: int) -> str:
    fixed = {"xyz": ["x", "y", "z"], "normals": ["nx", "ny", "nz"], "opacity": ["opacity"]}
    names = [
        name
        for pattern, values in columns.items()
        for name in fixed.get(pattern) or [f"{pattern}_{number}" for number in range(values.shape[1])]
    ]
    properties = "".join(f"property float {name}\n" for name in names)
    return f"ply\nformat binary_little_endian 1.0\nelement vertex {count}\n{properties}end_header\n"
