"""DepthSplat's decoder against the reference's, run on an emulated kernel (specs/rasterizer.md section 5)."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from splat_fixture import compare_images
from torch import Tensor
from transformer_fixture import relative

from novelview.splatting.gaussians import Gaussians
from novelview.splatting.rasterize import DecoderQuirks, Rendered, render_gaussians

GRADIENT_RTOL = 1e-3
GSPLAT_MAX, GSPLAT_MEAN = 0.015, 1e-4  # with gsplat's extent instead of three standard deviations
NAMES = ("means", "covariances", "opacities", "harmonics")


def _render(
    recorded: dict[str, Tensor], config: dict[str, Any], quirks: DecoderQuirks
) -> tuple[Rendered, dict[str, Tensor]]:
    given = {name: recorded[name].clone().requires_grad_() for name in NAMES}
    height, width = config["height"], config["width"]
    normalised = recorded["intrinsics_norm"]
    fx, fy, cx, cy = normalised[:, 0, 0], normalised[:, 1, 1], normalised[:, 0, 2], normalised[:, 1, 2]
    intrinsics = torch.stack([fx * width, fy * height, cx * width, cy * height], dim=-1)
    rendered = render_gaussians(
        Gaussians(*(value[None] for value in given.values())),
        recorded["extrinsics_c2w"][None],
        intrinsics[None],
        height,
        width,
        config["near"],
        config["far"],
        tuple(config["background"]),
        backend="torch",
        quirks=quirks,
    )
    return rendered, given


def check_images(folder: Path, config: dict[str, Any]) -> None:
    recorded = load_file(folder / "tensors.safetensors")

    def render() -> dict[str, Tensor]:
        rendered, _ = _render(recorded, config, DecoderQuirks())
        return {"color": rendered.images[0], "depth": rendered.depth[0]}

    compare_images(render, recorded)


def check_gradients(folder: Path, config: dict[str, Any]) -> None:
    recorded = load_file(folder / "tensors.safetensors")
    rendered, given = _render(recorded, config, DecoderQuirks())
    (rendered.images[0] * recorded["cot_color"]).sum().backward()
    for name, value in given.items():
        assert value.grad is not None
        ours, theirs = value.grad, recorded[f"grad_{name}"]
        if name == "covariances":  # the kernel reads the upper triangle only; a symmetric matrix moves by the sum
            ours, theirs = ours + ours.mT, theirs + theirs.mT
        assert relative(ours, theirs) <= GRADIENT_RTOL, name


def check_full_extent(folder: Path, config: dict[str, Any]) -> None:
    """Without the kernel's cut at three standard deviations the images stay within the sheet's bounds."""
    recorded = load_file(folder / "tensors.safetensors")
    rendered, _ = _render(recorded, config, replace(DecoderQuirks(), three_sigma=False))
    difference = (rendered.images[0].detach() - recorded["color"]).abs()
    assert difference.max() <= GSPLAT_MAX and difference.mean() <= GSPLAT_MEAN
