"""gsplat's CUDA kernels behind the same interface (specs/rasterizer.md section 3). Imported only where it is used."""

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from novelview.errors import ConfigError
from novelview.splatting.settings import Settings

EXTENSIONS = "TORCH_EXTENSIONS_DIR"  # where PyTorch builds extensions, by default below ~/.cache


def is_built() -> bool:
    """Say whether gsplat is installed with compiled kernels; nothing is imported and nothing is built."""
    spec = importlib.util.find_spec("gsplat")
    if spec is None or spec.origin is None:
        return False
    built = Path(os.environ.get(EXTENSIONS) or Path.home() / ".cache/torch_extensions")
    folders = (Path(spec.origin).parent.glob("csrc*"), built.glob("**/gsplat_cuda.*"))
    return any(path.suffix in (".so", ".pyd", ".lib") for folder in folders for path in folder)


def require(device: torch.device) -> None:
    """Raise ConfigError unless gsplat can render on a device."""
    if device.type != "cuda":
        raise ConfigError(f"backend=gsplat renders on CUDA only, the Gaussians lie on {device}; use backend=torch")
    if not is_built():
        raise ConfigError(
            "backend=gsplat: gsplat with compiled kernels was not found; install it and let it build once"
            " (python -c 'import gsplat.cuda._backend'), or use backend=torch"
        )


def render_scenes(scenes: Sequence[Mapping[str, Tensor]], settings: Settings) -> list[Float[Tensor, "c h w 5"]]:
    """Render scenes one after the other; see `render` and `torch_backend.render_scenes`."""
    return [render(**scene, settings=settings) for scene in scenes]


def render(
    means: Float[Tensor, "n 3"],
    covariances: Float[Tensor, "n 3 3"],
    opacities: Float[Tensor, " n"],
    colors: Float[Tensor, "c n 3"],
    viewmats: Float[Tensor, "c 4 4"],
    Ks: Float[Tensor, "c 3 3"],
    settings: Settings,
) -> Float[Tensor, "c h w 5"]:
    """Return red, green, blue, depth and alpha of every camera, without background.

    `alpha_max` and `three_sigma` are the kernels' own: 0.999 in gsplat 1.5.3, and 3.33 standard deviations.
    """
    gsplat: Any = importlib.import_module("gsplat")
    images, alphas, _ = gsplat.rasterization(
        means,
        None,
        None,
        opacities,
        colors,
        viewmats,
        Ks,
        settings.width,
        settings.height,
        near_plane=settings.near,
        far_plane=settings.far,
        eps2d=settings.eps2d,
        sh_degree=None,
        render_mode="RGB+D",
        rasterize_mode="classic",
        covars=covariances,
    )
    return torch.cat([images, alphas], dim=-1)
