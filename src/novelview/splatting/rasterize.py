"""One differentiable rasterizer of 3D Gaussians, by PyTorch or by gsplat's CUDA kernels (specs/rasterizer.md), and
DepthSplat's decoder on it: Gaussians of scenes rendered at target cameras (specs/depthsplat.md section 10)."""

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

from novelview.devices import full_precision
from novelview.errors import ConfigError, DataError
from novelview.splatting.blend import blend_scenes
from novelview.splatting.gaussians import Gaussians, covariance_of, sh_colors
from novelview.splatting.project import Settings, pinhole_matrices

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
    fit together and for values that are not finite (where gradients are asked for the colours are NaN instead),
    ConfigError for settings out of range and for a backend that cannot run."""
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
    first = next(value for value in scenes[0].values() if value is not None)
    device = first.device
    chosen = _automatic(device.type) if backend == "auto" else backend
    if backend == "gsplat":
        require_gsplat(device)
    with full_precision(first):
        checked = [_checked(scene) for scene in scenes]
        if chosen == "gsplat":
            images = [_render_by_gsplat(scene, settings) for scene in checked]
        else:
            images = blend_scenes(checked, settings)
    splats = []
    for scene, image in zip(checked, images, strict=True):
        # What is not finite makes the picture so: a training skips the step, on all ranks alike, and waits for no GPU.
        color = image[..., :3] + sum((value - value).sum() for value in scene.values())
        depth, alpha = image[..., 3], image[..., 4]
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
    unread = any(value.requires_grad or value.is_meta for value in checked.values())
    for name, value in () if unread else checked.items():
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
    built = Path(os.environ.get(EXTENSIONS) or os.path.expanduser("~/.cache/torch_extensions"))
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
