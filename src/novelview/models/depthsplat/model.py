"""DepthSplat as a model of views: posed context images in, Gaussians, and any camera rendered from them.

Training starts from Depth Anything V2 for the vision transformer, and from UniMatch for CNN and transformer."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from novelview.config.models import DepthSplatConfig
from novelview.devices import full_precision
from novelview.downloads.registry import read_registry
from novelview.errors import CheckpointError, DataError
from novelview.files import expanded
from novelview.models.depthsplat.depth import Cameras
from novelview.models.depthsplat.gaussians import DepthSplatEncoder, Encoded, pixel_centres, world_rays
from novelview.models.published import match_keys, read_state
from novelview.models.render import Images, Lenses, PosedTargets, Poses, Render
from novelview.scenes.batch import Views
from novelview.splatting.gaussians import Gaussians
from novelview.splatting.project import pinhole_matrices
from novelview.splatting.rasterize import Backend, render_gaussians

MIN_VIEWS = 2
FULL, PREDICTOR = "encoder.", "depth_predictor."  # prefixes of published names (specs/depthsplat.md section 11)
log = logging.getLogger(__name__)


@dataclass
class GaussianScene:
    """What is known of b scenes.

    gaussians: one a context pixel, world coordinates; None from a depth-only model. depths: z of the context views, in
    the units of the poses. coarser: the Gaussians of coarser predictions of depth, coarse to fine, in training only."""

    gaussians: Gaussians | None
    depths: Float[Tensor, "b v h w"]
    coarser: list[Gaussians]


class DepthSplat(PosedTargets):
    """Depth of two or more context views by matching, a Gaussian a pixel, splatted at target cameras.

    Poses are not normalised: `near` and `far` of the configuration are in their units. The encoder's parameters have
    the published names, prefix `encoder.`; `started_from` tells which weights were loaded before training, by file."""

    def __init__(self, cfg: DepthSplatConfig) -> None:
        super().__init__()
        self.cfg, self.patch_size = cfg, cfg.patch_size
        self.encoder = DepthSplatEncoder(cfg)
        self.started_from = load_initial(self.encoder.depth_predictor, cfg)

    def forward(self, context: Views, target: Views) -> Render:
        """Render the target cameras [b t] from context images [b v 3 h w] and cameras, at the context's size.

        images: not clamped from above. extras: `depth` [b v h w], z of the context views; `means` [b n 3] of the
        Gaussians; in training, where coarser depths were predicted, `intermediate` [k b t 3 h w], coarse to fine.
        Raises DataError for fewer than 2 context views, for missing images or poses, and for sides that do not fit."""
        height, width = self.checked(context).shape[-2:]
        c2w, lens = self.posed(target, "target"), target.intrinsics
        scene = self.encode(context)
        images = self.decode(scene, c2w, lens, height, width)
        extras = {"depth": scene.depths, "means": self.drawable(scene).means}
        if scene.coarser:
            extras["intermediate"] = torch.stack([self._drawn(one, c2w, lens, height, width) for one in scene.coarser])
        return Render(images, extras)

    def encode(self, context: Views) -> GaussianScene:
        """Return the Gaussians and depths of the context views."""
        found = self.encoded(context)
        depths = self._z(found.depth.depths[-1], context)
        return GaussianScene(found.gaussians[-1] if found.gaussians else None, depths, found.gaussians[:-1])

    def encoded(self, context: Views) -> Encoded:
        """Return all that the encoder finds: features, match probabilities, every prediction."""
        images, c2w = self.checked(context), self.posed(context, "context")
        if images.shape[1] < MIN_VIEWS:
            raise DataError(f"DepthSplat matches views with each other: give {MIN_VIEWS} context views or more, not 1")
        self.encoder.depth_predictor.recompute = self.activation_checkpointing
        return self.encoder(images, Cameras(c2w.float(), _matrices(context.intrinsics.float(), *images.shape[-2:])))

    def decode(self, scene: GaussianScene, c2w: Poses, intrinsics: Lenses, height: int, width: int) -> Images:
        """Splat the Gaussians at cameras, of any size; not clamped from above."""
        return self._drawn(self.drawable(scene), c2w, intrinsics, height, width)

    def drawable(self, scene: GaussianScene) -> Gaussians:
        """Return the Gaussians of a scene; raises DataError when a depth-only model found it."""
        if scene.gaussians is None:
            raise DataError("model.train_depth_only=true: the model predicts depth, renders nothing; use stage depth")
        return scene.gaussians

    def _drawn(self, gaussians: Gaussians, c2w: Tensor, lens: Tensor, height: int, width: int) -> Tensor:
        near, far, backend = self.cfg.near, self.cfg.far, cast(Backend, self.cfg.rasterizer)
        with full_precision(c2w):
            c2w, lens = c2w.float(), lens.float()
            return render_gaussians(gaussians, c2w, lens, height, width, near, far, backend=backend).images

    def _z(self, depth: Float[Tensor, "b v h w"], context: Views) -> Float[Tensor, "b v h w"]:
        """Return z of depths that may be taken along rays of length 1."""
        if not self.cfg.gaussian.unit_rays:
            return depth
        height, width = depth.shape[-2:]
        lens = _matrices(context.intrinsics.to(depth), height, width)
        xy = pixel_centres(height, width, depth).expand(*lens.shape[:2], -1, -1)
        _, rays = world_rays(xy, torch.eye(4).to(depth).expand(*lens.shape[:2], 4, 4), lens, unit=True)
        return depth * rays[..., 2].unflatten(-1, (height, width))

    def from_published(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the encoder's weights under our names; a depth-only model keeps the depth predictor alone.

        Published full models have `encoder.*` beside what training needs, which is left out; depth models the bare
        names of the depth predictor."""
        if any(key.startswith(FULL) for key in state):
            found = {key: value for key, value in state.items() if key.startswith(FULL)}
        else:
            prefix = FULL if any(key.startswith(PREDICTOR) for key in state) else FULL + PREDICTOR
            found = {prefix + key: value for key, value in state.items()}
        every = not self.cfg.train_depth_only
        return {key: value for key, value in found.items() if every or key.startswith(FULL + PREDICTOR)}


def _matrices(intrinsics: Float[Tensor, "b v 4"], height: int, width: int) -> Float[Tensor, "b v 3 3"]:
    """Return intrinsics with the first row over the width and the second over the height."""
    fx, fy, cx, cy = intrinsics.unbind(-1)
    return pinhole_matrices(torch.stack([fx / width, fy / height, cx / width, cy / height], dim=-1))


def load_initial(predictor: nn.Module, cfg: DepthSplatConfig) -> dict[str, dict[str, Any]]:
    """Load what `dino.weights` and `match_weights` name, a file or an entry of conf/registry.yaml, as far as it fits.

    Returns, by file, how many weights were loaded, which of the part they are for were missing there, and how many of
    the file were left out. Raises CheckpointError, one line, for a file that is missing or whose weights do not fit."""
    wanted = (
        ("model.dino.weights", cfg.dino.weights, ("pretrained.",)),
        ("model.match_weights", cfg.match_weights, ("backbone.", "transformer.")),
    )
    record = {}
    for key, name, parts in wanted:
        if name is not None:
            path = _initial_file(key, name)
            found = record[path.name] = _load_parts(path, predictor, parts)
            counts = found["loaded"], found["left_out"], len(found["missing"])
            log.info("%s: %d weights loaded, %d left out, %d not in the file", path, *counts)
    return record


def _initial_file(key: str, name: str) -> Path:
    registry = read_registry()
    path = expanded(registry[name].path if name in registry else name)
    if path.is_file():
        return path
    how = f"python -m novelview.stages.fetch {name}" if name in registry else "correct the path"
    raise CheckpointError(f"{key}={name}: {path} is no file; {how}, or set {key}=null to start without")


def _load_parts(path: Path, predictor: nn.Module, parts: tuple[str, ...]) -> dict[str, Any]:
    state = read_state(path)
    own = {key: value for key, value in predictor.state_dict().items() if key.startswith(parts)}
    fitting = {key: value for key, value in state.items() if key in own}
    if not fitting:
        raise CheckpointError(f"{path}: has no weight of {' or '.join(parts)}*; is it the file that was asked for?")
    match_keys(path, fitting, own, optional=own)
    predictor.load_state_dict(fitting, strict=False)
    missing = sorted(set(own) - set(fitting))
    return {"loaded": len(fitting), "missing": missing, "left_out": len(state) - len(fitting)}
