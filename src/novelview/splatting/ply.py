"""Gaussians as a PLY file that viewers of 3D Gaussian splatting open (layout of the original implementation)."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from novelview.errors import DataError
from novelview.files import write_bytes
from novelview.splatting.covariance import quats_and_scales
from novelview.splatting.gaussians import Gaussians
from novelview.splatting.harmonics import degree_of, viewer_harmonics

MAX_DEGREE = 3  # what viewers draw
SMALLEST = 1e-10  # scale whose logarithm is still written
OPACITY_MARGIN = 1e-6  # opacities are written as logits


def write_ply(path: Path | str, gaussians: Gaussians, sh_axes: str = "zxy") -> None:
    """Write one scene's Gaussians: world coordinates (OpenCV), scales as logarithms, opacities as logits, w x y z.

    sh_axes: what `sh_colors` was given for these harmonics; DepthSplat's by default. The coefficients are turned so
    that viewers, which read "xyz", show the same colours; bands above 3 are left out. Raises DataError for more than
    one scene and for values that are not finite.
    """
    if len(gaussians.means) != 1:
        raise DataError(f"{path}: a PLY file holds one scene, got {len(gaussians.means)}; use Gaussians.take")
    if not all(bool(torch.isfinite(value).all()) for value in gaussians.tensors()):
        raise DataError(f"{path}: Gaussians with values that are not finite cannot be written")
    columns = _columns(gaussians, sh_axes)
    table = torch.cat(list(columns.values()), dim=1).cpu().numpy().astype("<f4")
    write_bytes(path, _header(columns, len(table)).encode("ascii") + table.tobytes())


def _columns(gaussians: Gaussians, sh_axes: str) -> dict[str, Float[Tensor, "n k"]]:
    """Return the columns in their order, by the pattern of their names."""
    means, covariances, opacities, harmonics = (value[0].detach().double() for value in gaussians.tensors())
    quats, scales = quats_and_scales(covariances)
    bands = min(degree_of(harmonics.shape[-1]), MAX_DEGREE) + 1
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
