"""One differentiable rasterizer of 3D Gaussians (specs/rasterizer.md)."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from novelview.splatting.blend import Frame, blend
from novelview.splatting.covariance import covariance_of
from novelview.splatting.harmonics import sh_colors
from novelview.splatting.project import Camera, project
from novelview.splatting.tiles import tile_bounds

Backend = Literal["auto", "torch", "gsplat"]


@dataclass(frozen=True)
class Splat:
    """Images of c cameras: color (not clamped), alpha in [0,1], depth = sum of weight * z, not divided by alpha."""

    color: Float[Tensor, "c 3 h w"]
    alpha: Float[Tensor, "c h w"]
    depth: Float[Tensor, "c h w"]


def rasterize(
    means: Float[Tensor, "n 3"],
    opacities: Float[Tensor, " n"],
    viewmats: Float[Tensor, "c 4 4"],
    Ks: Float[Tensor, "c 3 3"],
    width: int,
    height: int,
    *,
    covariances: Float[Tensor, "n 3 3"] | None = None,
    quats: Float[Tensor, "n 4"] | None = None,
    scales: Float[Tensor, "n 3"] | None = None,
    colors: Float[Tensor, "n 3"] | Float[Tensor, "c n 3"] | None = None,
    sh: Float[Tensor, "n k 3"] | None = None,
    background: Float[Tensor, "3"] | Float[Tensor, "c 3"] | None = None,
    near: float = 0.01,
    far: float = 1e10,
    eps2d: float = 0.3,
    alpha_max: float = 0.99,
    three_sigma: bool = False,
    backend: Backend = "auto",
) -> Splat:
    """Render Gaussians in c pinhole cameras.

    means: world, scene units. opacities: [0,1]. Shape: `covariances`, or `quats` (w x y z, any length) and `scales`
    (standard deviations). Colour: `colors` of red, green, blue, or `sh` coefficients evaluated at the direction from
    the camera. viewmats: world to camera, OpenCV. Ks: pixels, pixel centres at +0.5. Gaussians with near < z < far
    are drawn. eps2d: px^2 added to the variances on the image. three_sigma: the INRIA kernel's shorter extent.
    Raises ValueError for shapes that do not fit together and for values that are not finite.
    """
    covariances = _shape(covariances, quats, scales)
    _check(means=means, opacities=opacities, covariances=covariances)
    backgrounds = None if background is None else background.expand(len(viewmats), 3)
    splats = []
    for number, (viewmat, K) in enumerate(zip(viewmats, Ks, strict=True)):
        rgb = _colors(means, viewmat, number, colors, sh)
        camera = Camera(viewmat, K, width, height, near, far)
        image = _one(means, covariances, opacities, rgb, camera, eps2d, alpha_max, three_sigma)
        splats.append(image)
    images = torch.stack(splats)
    color, depth, alpha = images[..., :3], images[..., 3], images[..., 4]
    if backgrounds is not None:
        color = color + (1 - alpha)[..., None] * backgrounds[:, None, None]
    return Splat(color.permute(0, 3, 1, 2), alpha, depth)


def _shape(covariances: Tensor | None, quats: Tensor | None, scales: Tensor | None) -> Tensor:
    if covariances is not None:
        return covariances
    if quats is None or scales is None:
        raise ValueError("rasterize needs covariances, or quats and scales")
    return covariance_of(quats, scales)


def _check(**values: Tensor) -> None:
    for name, value in values.items():
        bad = int((~torch.isfinite(value.detach())).flatten(1).any(dim=1).sum()) if value.dim() > 1 else 0
        if bad:
            raise ValueError(f"{bad} of {len(value)} Gaussians have {name} that are not finite")


def _colors(means: Tensor, viewmat: Tensor, number: int, colors: Tensor | None, sh: Tensor | None) -> Tensor:
    if colors is not None:
        return colors[number] if colors.dim() == 3 else colors
    if sh is None:
        raise ValueError("rasterize needs colors or sh")
    centre = -viewmat[:3, :3].mT @ viewmat[:3, 3]
    return sh_colors(sh.mT, means - centre)


def _one(
    means: Tensor,
    covariances: Tensor,
    opacities: Tensor,
    colors: Tensor,
    camera: Camera,
    eps2d: float,
    alpha_max: float,
    three_sigma: bool,
) -> Float[Tensor, "h w 5"]:
    """Return red, green, blue, depth and alpha of one camera, without background."""
    ellipses = project(means, covariances, camera, eps2d)
    picked = opacities[ellipses.index]
    with torch.no_grad():
        bounds = tile_bounds(ellipses, picked, camera.width, camera.height, three_sigma)
    shapes = torch.cat([ellipses.means, ellipses.conics, picked[:, None]], dim=-1)
    depths = ellipses.depths[:, None]
    features = torch.cat([colors[ellipses.index], depths, torch.ones_like(depths)], dim=-1)
    return blend(shapes, features, Frame(bounds, camera.width, camera.height, alpha_max))
