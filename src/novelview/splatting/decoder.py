"""DepthSplat's decoder: Gaussians of a batch of scenes rendered at target cameras (specs/depthsplat.md section 10)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from novelview.errors import ConfigError, DataError
from novelview.splatting.gaussians import Gaussians, sh_colors
from novelview.splatting.project import Settings, pinhole_matrices
from novelview.splatting.rasterize import Backend, rasterize_scenes

NEAR_PLANE = 0.2  # of the reference's kernel, after the scene has been divided by `near`


@dataclass(frozen=True)
class DecoderQuirks:
    """What the reference's renderer does besides splatting; the defaults give published numbers.

    sh_axes: components of a direction that stand for x, y, z of the SH basis. max_sh_degree: higher bands are not
    drawn. central_principal_point: cameras are replaced by centred ones of the same field of view. three_sigma:
    Gaussians end at the 16-pixel tiles that 3 standard deviations reach (torch backend only)."""

    sh_axes: str = "zxy"
    max_sh_degree: int = 3
    central_principal_point: bool = True
    three_sigma: bool = True


@dataclass(frozen=True)
class Rendered:
    """images: linear in the Gaussians' colours, not clamped. depth: sum of weight * z, scene units. alpha: [0,1]."""

    images: Float[Tensor, "b v 3 h w"]
    depth: Float[Tensor, "b v h w"]
    alpha: Float[Tensor, "b v h w"]


def render_gaussians(
    gaussians: Gaussians,
    c2w: Float[Tensor, "b v 4 4"],
    intrinsics: Float[Tensor, "b v 4"],
    height: int,
    width: int,
    near: float,
    far: float,
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    backend: Backend = "auto",
    quirks: DecoderQuirks | None = None,
) -> Rendered:
    """Render every scene at its cameras.

    c2w: camera to world, OpenCV. intrinsics: fx fy cx cy in pixels of height x width. The scene is divided by `near`
    first, so what lies nearer than 0.2 * near is not drawn; `far` cuts nothing, as in the reference. Raises DataError
    for another number of scenes than of cameras' sets, and what `rasterize` raises."""
    quirks = quirks or DecoderQuirks()
    if not 0 < near < far:
        raise ConfigError(f"0 < near < far must hold, got near {near}, far {far}")
    if not len(gaussians.means) == len(c2w) == len(intrinsics) > 0:
        raise DataError(f"{len(gaussians.means)} scenes of Gaussians for {len(c2w)} sets of cameras")
    if quirks.central_principal_point:
        fx, fy, cx, cy = intrinsics.unbind(-1)
        (fx, cx), (fy, cy) = _centred(fx, cx, width), _centred(fy, cy, height)
        intrinsics = torch.stack([fx, fy, cx, cy], dim=-1)
    lenses = pinhole_matrices(intrinsics)
    scenes = [_scene(gaussians.take(number), c2w[number], lenses[number], near, quirks) for number in range(len(c2w))]
    settings = Settings(width, height, NEAR_PLANE, three_sigma=quirks.three_sigma)
    splats = rasterize_scenes(scenes, settings, gaussians.means.new_tensor(background), backend)
    found = [(splat.color, splat.depth * near, splat.alpha) for splat in splats]
    return Rendered(*(torch.stack(values) for values in zip(*found, strict=True)))


def _scene(gaussians: Gaussians, c2w: Tensor, lenses: Tensor, near: float, quirks: DecoderQuirks) -> dict[str, Tensor]:
    """Return what the rasterizer takes of one scene, divided by `near`."""
    means, covariances, opacities, harmonics = (value[0] for value in gaussians.tensors())
    directions = means - c2w[:, None, :3, 3]
    colors = [sh_colors(harmonics, each, quirks.sh_axes, quirks.max_sh_degree) for each in directions]
    scaled = c2w.clone()
    scaled[:, :3, 3] /= near
    return {
        "means": means / near,
        "opacities": opacities,
        "viewmats": torch.linalg.inv(scaled),
        "Ks": lenses,
        "covariances": covariances / near**2,
        "colors": torch.stack(colors),
    }


def _centred(focal: Tensor, centre: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return focal length and principal point of a centred camera with the same field of view along one axis."""
    angle = torch.atan(centre / focal) + torch.atan((size - centre) / focal)
    return 0.5 * size / torch.tan(0.5 * angle), torch.full_like(centre, size / 2)
