"""What the checks of both Gaussian adapters and of both kinds of rays share."""

from pathlib import Path
from typing import Any

import torch
from depthsplat_fixture import GRADIENT_RTOL, near, tensors
from torch import Tensor

from novelview.config.models import GaussianConfig
from novelview.models.depthsplat.gaussians import FIXED, colours_of, sh_mask, shapes_of, world_rays
from novelview.splatting.rasterize import _centred


def verify_adapter(folder: Path, config: dict[str, Any], cfg: GaussianConfig) -> None:
    """Compare every recorded Gaussian, then the gradients of the recorded combination of them."""
    given = tensors(folder)
    inputs = [given[name].requires_grad_() for name in ("coordinates", "depths", "raw_gaussians")]
    ours = _gaussians(given, cfg)
    for name, value in ours.items():
        near(name, value.view_as(given[name]), given[name])
    parts = ("means", "covariances", "harmonics")
    loss = sum(((ours[name].view_as(given[name]) * given[f"cot_{name}"]).sum() for name in parts), torch.tensor(0.0))
    names = ("grad_coordinates", "grad_depths", "grad_raw")
    for name, gradient in zip(names, torch.autograd.grad(loss, inputs), strict=True):
        near(name, gradient, given[name], rtol=GRADIENT_RTOL)


def _gaussians(given: dict[str, Tensor], cfg: GaussianConfig) -> dict[str, Tensor]:
    c2w, raw = given["extrinsics_c2w"], given["raw_gaussians"].flatten(2, 4)
    xy, depth = given["coordinates"].flatten(2, 3), given["depths"].flatten(2, 4)
    origins, directions = world_rays(xy, c2w, given["intrinsics_norm"], cfg.unit_rays)
    scales, quaternions, covariances = shapes_of(raw[..., :FIXED], c2w, cfg)
    colours = given["images"].flatten(3).mT
    return {
        "means": origins + directions * depth[..., None],
        "scales": scales,
        "rotations_xyzw": quaternions,
        "covariances": covariances,
        "harmonics": colours_of(raw[..., FIXED:], c2w, colours, cfg),
        "sh_mask": sh_mask(cfg.sh_degree),
    }


def adapter_options(config: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of the configuration that the fixture tells."""
    return {
        "sh_degree": config["sh_degree"],
        "scale_min": config["gaussian_scale_min"],
        "scale_max": config["gaussian_scale_max"],
    }


def verify_rays(folder: Path, unit: bool) -> None:
    """Compare rays through recorded points of the image."""
    given = tensors(folder)
    origins, directions = world_rays(given["xy"], given["extrinsics_c2w"], given["intrinsics_norm"], unit)
    near("origins", origins, given["origins"])
    near("directions", directions, given["directions"])


def verify_field_of_view(folder: Path) -> None:
    """Compare the angles between opposite sides of the image, as the renderer centres cameras by them."""
    given = tensors(folder)
    lens = given["intrinsics_norm"].flatten(0, 1)
    angles = [2 * torch.atan(0.5 / _centred(lens[:, i, i], lens[:, i, 2], 1)[0]) for i in range(2)]
    near("fov", torch.stack(angles, dim=-1), given["fov"])
