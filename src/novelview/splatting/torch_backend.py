"""The rasterizer in PyTorch alone, on any device."""

import torch
from jaxtyping import Float
from torch import Tensor

from novelview.splatting.blend import Frame, blend
from novelview.splatting.project import Camera, project
from novelview.splatting.settings import Settings
from novelview.splatting.tiles import tile_bounds


def render(
    means: Float[Tensor, "n 3"],
    covariances: Float[Tensor, "n 3 3"],
    opacities: Float[Tensor, " n"],
    colors: Float[Tensor, "c n 3"],
    viewmats: Float[Tensor, "c 4 4"],
    Ks: Float[Tensor, "c 3 3"],
    settings: Settings,
) -> Float[Tensor, "c h w 5"]:
    """Return red, green, blue, depth and alpha of every camera, without background."""
    cameras = (Camera(viewmat, K) for viewmat, K in zip(viewmats, Ks, strict=True))
    images = [
        _render_one(means, covariances, opacities, rgb, camera, settings)
        for rgb, camera in zip(colors, cameras, strict=True)
    ]
    return torch.stack(images)


def _render_one(
    means: Tensor, covariances: Tensor, opacities: Tensor, colors: Tensor, camera: Camera, settings: Settings
) -> Float[Tensor, "h w 5"]:
    ellipses = project(means, covariances, camera, settings)
    picked = opacities[ellipses.index]
    shapes = torch.cat([ellipses.means, ellipses.conics, picked[:, None]], dim=-1)
    depths = ellipses.depths[:, None]
    features = torch.cat([colors[ellipses.index], depths, torch.ones_like(depths)], dim=-1)
    return blend(shapes, features, Frame(tile_bounds(ellipses, picked, settings), settings))
