"""The torch rasterizer against gsplat 1.6.0's torch functions: images, intermediates, gradients of a linear loss."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from splat_fixture import ATOL, compare_images
from torch import Tensor
from transformer_fixture import relative

from novelview.splatting.gaussians import covariance_of, sh_colors
from novelview.splatting.project import Camera, Ellipses, Settings, project
from novelview.splatting.rasterize import rasterize

GRADIENT_RTOL = 1e-3  # specs/rasterizer.md section 5


def _inputs(folder: Path, config: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the Gaussians, as leaves, and everything recorded."""
    recorded = load_file(folder / "tensors.safetensors")
    shape = ("covars",) if config["input_covars"] else ("quats", "scales")
    colour = ("sh",) if config["color_mode"] == "sh" else ("colors",)
    names = ("means", "opacities", *shape, *colour)
    return {name: recorded[name].clone().requires_grad_() for name in names}, recorded


def _render(given: dict[str, Tensor], recorded: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    splat = rasterize(
        given["means"],
        given["opacities"],
        recorded["viewmats"],
        recorded["Ks"],
        config["width"],
        config["height"],
        covariances=given.get("covars"),
        quats=given.get("quats"),
        scales=given.get("scales"),
        colors=given.get("colors"),
        sh=given.get("sh"),
        background=recorded.get("backgrounds"),
        near=config["near_plane"],
        far=config["far_plane"],
        eps2d=config["eps2d"],
        alpha_max=config["max_alpha"],
        backend="torch",
    )
    return {
        "color": splat.color.permute(0, 2, 3, 1),
        "alpha": splat.alpha[..., None],
        "depth_acc": splat.depth[..., None],
    }


def check_images(folder: Path, config: dict[str, Any]) -> None:
    given, recorded = _inputs(folder, config)
    compare_images(lambda: _render(given, recorded, config), recorded)
    expected = recorded["depth_acc"] / recorded["alpha"].clamp(min=1e-10)
    torch.testing.assert_close(recorded["expected_depth"], expected, rtol=1e-4, atol=1e-5)


def check_gradients(folder: Path, config: dict[str, Any]) -> None:
    given, recorded = _inputs(folder, config)
    ours = _render(given, recorded, config)
    cotangents = {"color": "cot_color", "alpha": "cot_alpha", "depth_acc": "cot_depth"}
    torch.stack([(ours[name] * recorded[cot]).sum() for name, cot in cotangents.items()]).sum().backward()
    assert {f"grad_{name}" for name in given} == {name for name in recorded if name.startswith("grad_")}
    for name, value in given.items():
        assert value.grad is not None
        assert relative(value.grad, recorded[f"grad_{name}"]) <= GRADIENT_RTOL, name


def check_projection(folder: Path, config: dict[str, Any]) -> None:
    """Compare the ellipses that the reference found to lie on the image; check that we draw no fewer."""
    given, recorded = _inputs(folder, config)
    covariances = given["covars"] if "covars" in given else covariance_of(given["quats"], given["scales"])
    torch.testing.assert_close(covariances.detach(), recorded["covars"], rtol=1e-5, atol=1e-6)
    for number, (viewmat, K) in enumerate(zip(recorded["viewmats"], recorded["Ks"], strict=True)):
        sizes = config["width"], config["height"], config["near_plane"], config["far_plane"]
        settings = Settings(*sizes, eps2d=config["eps2d"])
        ellipses = project(given["means"].detach(), covariances.detach(), Camera(viewmat, K), settings)
        _compare_ellipses(ellipses, {name: recorded[name][number] for name in ("radii", "means2d", "depths", "conics")})


def _compare_ellipses(ellipses: Ellipses, recorded: dict[str, Tensor]) -> None:
    drawn = (recorded["radii"] > 0).all(dim=-1)
    ours = torch.isin(ellipses.index, torch.nonzero(drawn).squeeze(-1))
    index = ellipses.index[ours]
    assert len(index) == int(drawn.sum()) > 0
    for name, value in (("means2d", ellipses.means), ("depths", ellipses.depths), ("conics", ellipses.conics)):
        torch.testing.assert_close(value[ours], recorded[name][index], rtol=1e-4, atol=1e-5)


def check_sh_colors(folder: Path, config: dict[str, Any]) -> None:
    given, recorded = _inputs(folder, config)
    if config["color_mode"] != "sh":
        assert "sh_colors" not in recorded
        return
    for viewmat, colors in zip(recorded["viewmats"], recorded["sh_colors"], strict=True):
        centre = torch.linalg.inv(viewmat)[:3, 3]
        ours = sh_colors(given["sh"].detach().mT, recorded["means"] - centre)
        torch.testing.assert_close(ours, colors, rtol=0, atol=ATOL)


def check_an_altered_image_is_seen(folder: Path, config: dict[str, Any]) -> None:
    """Half a pixel of the principal point breaks every fixture."""
    given, recorded = _inputs(folder, config)
    recorded["Ks"][:, 0, 2] += 0.5
    with pytest.raises(AssertionError, match="color"):
        compare_images(lambda: _render(given, recorded, config), recorded)
