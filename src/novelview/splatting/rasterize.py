"""One differentiable rasterizer of 3D Gaussians, by PyTorch or by gsplat's CUDA kernels (specs/rasterizer.md)."""

import importlib.util
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from novelview.errors import ConfigError, DataError
from novelview.splatting.blend import blend_scenes
from novelview.splatting.gaussians import covariance_of, sh_colors
from novelview.splatting.project import Settings

Backend = Literal["auto", "torch", "gsplat"]
EXTENSIONS = "TORCH_EXTENSIONS_DIR"  # where PyTorch builds extensions, by default below ~/.cache
log = logging.getLogger(__name__)


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
    """Render n Gaussians, which may be none, in c pinhole cameras.

    means: world, scene units. opacities: [0,1]. Shape: `covariances`, or `quats` (w x y z, any length) and `scales`
    (standard deviations). Colour: `colors` of red, green, blue, or `sh` coefficients evaluated at the direction from
    the camera. viewmats: world to camera, OpenCV. Ks: pixels, pixel centres at +0.5. background: black without one.
    near, far, eps2d, alpha_max, three_sigma: see `Settings`. backend: "auto" is gsplat for CUDA tensors where its
    kernels are built, else torch.

    Computes in float32, or in float64 where the means are; autocast is off. Raises DataError for shapes that do not
    fit together and for values that are not finite, ConfigError for settings out of range and for a backend that
    cannot run."""
    settings = Settings(width, height, near, far, eps2d, alpha_max, three_sigma)
    given = {"covariances": covariances, "quats": quats, "scales": scales, "colors": colors, "sh": sh}
    scene = {"means": means, "opacities": opacities, "viewmats": viewmats, "Ks": Ks, **given}
    return rasterize_scenes([scene], settings, background, backend)[0]


def rasterize_scenes(
    scenes: Sequence[Mapping[str, Tensor | None]],
    settings: Settings,
    background: Float[Tensor, "3"] | Float[Tensor, "c 3"] | None = None,
    backend: Backend = "auto",
) -> list[Splat]:
    """Render several scenes, each described by the arguments of `rasterize`, which a GPU then does in one pass."""
    device = next(value for value in scenes[0].values() if value is not None).device
    chosen = _automatic(device.type) if backend == "auto" else backend
    if backend == "gsplat":
        require_gsplat(device)
    with torch.autocast(device.type, enabled=False):
        checked = [_checked(scene) for scene in scenes]
        if chosen == "gsplat":
            images = [_render_by_gsplat(scene, settings) for scene in checked]
        else:
            images = blend_scenes(checked, settings)
    splats = []
    for image in images:
        color, depth, alpha = image[..., :3], image[..., 3], image[..., 4]
        if background is not None:
            color = color + (1 - alpha)[..., None] * background.expand(len(image), 3)[:, None, None]
        splats.append(Splat(color.permute(0, 3, 1, 2), alpha, depth))
    return splats


def _checked(scene: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
    """Return what the backends take, in one dtype: covariances, and a colour for every camera and Gaussian."""
    given = {name: value for name, value in scene.items() if value is not None}
    dtype = torch.promote_types(given["means"].dtype, torch.float32)
    given = {name: value.to(dtype) for name, value in given.items()}
    means, viewmats, sh = given["means"], given["viewmats"], given.get("sh")
    if "covariances" not in given:
        if "quats" not in given or "scales" not in given:
            raise DataError("rasterize needs covariances, or quats and scales")
        given["covariances"] = covariance_of(given["quats"], given["scales"])
    if "colors" not in given:
        if sh is None or sh.dim() != 3 or sh.shape[::2] != means.shape:
            raise DataError("rasterize needs colors, or sh of shape [n, k, 3]")
        centres = -(viewmats[:, None, :3, 3] @ viewmats[:, :3, :3]).squeeze(1)
        given["colors"] = torch.stack([sh_colors(sh.mT, means - centre) for centre in centres])
    elif given["colors"].dim() == 2:
        given["colors"] = given["colors"].expand(len(viewmats), *given["colors"].shape)
    n, c = len(means), len(viewmats)
    expected = {"means": (n, 3), "covariances": (n, 3, 3), "opacities": (n,), "colors": (c, n, 3)}
    expected |= {"viewmats": (c, 4, 4), "Ks": (c, 3, 3)}
    checked = {name: given[name] for name in expected}
    shapes = [tuple(value.shape) for value in checked.values()]
    if c == 0 or shapes != [*expected.values()]:
        raise DataError(f"rasterize: {', '.join(expected)} must have the shapes {[*expected.values()]}, got {shapes}")
    for name, value in checked.items():
        bad = int((~torch.isfinite(value.detach())).sum())
        if bad:
            raise DataError(f"rasterize: {bad} of {value.numel()} values of {name} are not finite")
    return checked


@cache
def _automatic(device: str) -> str:
    """Choose once for every type of device, and say so."""
    chosen = "gsplat" if device == "cuda" and gsplat_is_built() else "torch"
    log.info("rasterizer: backend %s on %s", chosen, device)
    return chosen


def gsplat_is_built() -> bool:
    """Say whether gsplat is installed with compiled kernels; nothing is imported and nothing is built."""
    spec = importlib.util.find_spec("gsplat")
    if spec is None or spec.origin is None:
        return False
    built = Path(os.environ.get(EXTENSIONS) or Path.home() / ".cache/torch_extensions")
    folders = (Path(spec.origin).parent.glob("csrc*"), built.glob("**/gsplat_cuda.*"))
    return any(path.suffix in (".so", ".pyd", ".lib") for folder in folders for path in folder)


def require_gsplat(device: torch.device) -> None:
    """Raise ConfigError unless gsplat can render on a device."""
    if device.type != "cuda":
        raise ConfigError(f"backend=gsplat renders on CUDA only, the Gaussians lie on {device}; use backend=torch")
    if not gsplat_is_built():
        raise ConfigError(
            "backend=gsplat: gsplat with compiled kernels was not found; install it and let it build once"
            " (python -c 'import gsplat.cuda._backend'), or use backend=torch"
        )


def _render_by_gsplat(scene: Mapping[str, Tensor], settings: Settings) -> Float[Tensor, "c h w 5"]:
    """Return red, green, blue, depth and alpha of every camera, without background (specs/rasterizer.md section 3).

    `alpha_max` and `three_sigma` are the kernels' own: 0.999 in gsplat 1.5.3, and 3.33 standard deviations."""
    gsplat: Any = importlib.import_module("gsplat")
    shapes = scene["means"], None, None, scene["opacities"], scene["colors"]  # covariances stand for quats and scales
    cameras = scene["viewmats"], scene["Ks"], settings.width, settings.height
    limits = {"near_plane": settings.near, "far_plane": settings.far, "eps2d": settings.eps2d}
    modes = {"sh_degree": None, "render_mode": "RGB+D", "rasterize_mode": "classic"}
    images, alphas, _ = gsplat.rasterization(*shapes, *cameras, covars=scene["covariances"], **limits, **modes)
    return torch.cat([images, alphas], dim=-1)
