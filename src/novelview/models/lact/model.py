"""LaCT: fast weights learn the context views in one pass, then answer any camera (arXiv 2505.23884, specs/lact.md)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from novelview.cameras.camera import rays
from novelview.config.models import LaCTConfig
from novelview.errors import DataError
from novelview.models.lact.layers import Block, FastWeightLayer
from novelview.models.lact.ttt import FastWeights, Row
from novelview.models.layers import BASE_STD, init_linears
from novelview.models.render import Render
from novelview.models.schemes import PosedTargets
from novelview.models.tokens import Patchify, check_size, image_token_decoder, unpatchify
from novelview.scenes.batch import Views

CHANNELS = 12  # origin, direction, origin x direction, colour


@dataclass
class SceneState:
    """A scene as the fast weights of every block ([b*heads ...] each) know it; its size knows nothing of the views."""

    blocks: list[FastWeights]
    scenes: int  # b


class LaCT(PosedTargets):
    """Renders target cameras from any number of posed context views, at a cost that grows linearly with them.

    Attribute and parameter names are those of the published checkpoints.
    """

    def __init__(self, cfg: LaCTConfig) -> None:
        super().__init__()
        self.cfg, self.patch_size = cfg, cfg.patch_size
        self.patchify = Patchify(cfg.patch_size)
        self.input_linear = nn.Linear(CHANNELS * cfg.patch_size**2, cfg.d, bias=False)
        self.input_layernorm = nn.LayerNorm(cfg.d, bias=False)
        self.blocks = nn.ModuleList([Block(cfg) for _ in range(cfg.n_layer)])
        self.image_token_decoder = image_token_decoder(cfg.d, cfg.patch_size, cfg.init_gain)
        self._initialise()

    def _initialise(self) -> None:
        """Draw linear layers from N(0, 0.02), those that write to the residual stream smaller with depth."""
        init_linears(self, BASE_STD * self.cfg.init_gain)
        std = BASE_STD * self.cfg.init_gain / (3 * self.cfg.n_layer) ** 0.5
        for name, parameter in self.named_parameters():
            if name.endswith("c_proj.weight"):
                nn.init.normal_(parameter, std=std)

    def forward(self, context: Views, target: Views) -> Render:
        """Render the target cameras [b v] at the context's size, context and targets in one pass.

        The same as `render` after `reconstruct`. Raises DataError without images or poses, or when image sides are no
        multiple of the patch.
        """
        images = self.checked(context)
        size = images.shape[-2:]
        known = self.tokens(images, self.posed(context, "context"), context.intrinsics)
        asked = self.tokens(None, self.posed(target, "target"), target.intrinsics, size)
        x = torch.cat([known, asked], dim=1)
        learnt, every = (part.shape[1] * part.shape[2] for part in (known, x))
        x, _ = self.run(x, [Row(0, learnt, True, False), Row(0, every, False, True)])
        return Render(self.pictures(x[:, known.shape[1] :], *size))

    def reconstruct(self, context: Views) -> SceneState:
        """Learn the context views; any camera can be rendered from the result, as often as one likes."""
        images = self.checked(context)
        x = self.tokens(images, self.posed(context, "context"), context.intrinsics)
        _, states = self.run(x, [Row(0, x.shape[1] * x.shape[2], True, True)])
        return SceneState(states, len(x))

    def render(
        self,
        scene: SceneState,
        c2w: Float[Tensor, "b v 4 4"],
        intrinsics: Float[Tensor, "b v 4"],
        height: int,
        width: int,
    ) -> Float[Tensor, "b v 3 h w"]:
        """Render cameras, in the frame of the context's, of a scene learnt before; no camera sees another.

        Raises DataError when the state is of other scenes than the cameras, or sides are no multiple of the patch.
        """
        check_size(height, width, self.patch_size)
        if scene.scenes != len(c2w):
            raise DataError(f"a state of {scene.scenes} scenes cannot render cameras of {len(c2w)} scenes")
        if not self.fits(scene):
            raise DataError("the state is of a model of another size; reconstruct the scene with this one")
        x = self.tokens(None, c2w, intrinsics, (height, width))
        x, _ = self.run(x, [Row(0, x.shape[1] * x.shape[2], False, True)], scene.blocks)
        return self.pictures(x, height, width)

    encode = reconstruct
    decode = render

    def fits(self, scene: SceneState) -> bool:
        """Tell whether a state has this model's blocks and sizes."""
        own = [module for module in self.modules() if isinstance(module, FastWeightLayer)]
        pairs = zip(own, scene.blocks, strict=False)
        return len(own) == len(scene.blocks) and all(layer.fits(weights, scene.scenes) for layer, weights in pairs)

    def tokens(
        self,
        images: Float[Tensor, "b v 3 h w"] | None,
        c2w: Float[Tensor, "b v 4 4"],
        intrinsics: Float[Tensor, "b v 4"],
        size: Sequence[int] = (),
    ) -> Float[Tensor, "b v t d"]:
        """Return the tokens of posed images, or of cameras alone, mid-grey and of `size` (height, width)."""
        patches = self.patchify(posed_pixels(images, c2w, intrinsics, size).flatten(0, 1))
        return self.input_layernorm(self.input_linear(patches)).unflatten(0, c2w.shape[:2])

    def run(
        self, x: Float[Tensor, "b v t d"], rows: list[Row], states: Sequence[FastWeights] | None = None
    ) -> tuple[Float[Tensor, "b v t d"], list[FastWeights]]:
        """Send tokens through all blocks; return them and each block's fast weights."""
        recompute = self.activation_checkpointing and torch.is_grad_enabled()
        left = []
        for block, state in zip(self.blocks, states or [None] * len(self.blocks), strict=True):
            x, weights = checkpoint(block, x, rows, state, use_reentrant=False) if recompute else block(x, rows, state)
            left.append(weights)
        return x, left

    def pictures(self, x: Float[Tensor, "b v t d"], height: int, width: int) -> Float[Tensor, "b v 3 h w"]:
        """Return the images that tokens say."""
        colours = self.image_token_decoder(x.flatten(0, 1))
        return unpatchify(colours, self.patch_size, height, width).unflatten(0, x.shape[:2])


def posed_pixels(
    images: Float[Tensor, "b v 3 h w"] | None,
    c2w: Float[Tensor, "b v 4 4"],
    intrinsics: Float[Tensor, "b v 4"],
    size: Sequence[int] = (),
) -> Float[Tensor, "b v 12 h w"]:
    """Return every pixel's ray (origin, direction, origin x direction) and its colour in [-1,1]; 0 without images."""
    height, width = size if images is None else images.shape[-2:]
    origin, direction = rays(c2w, intrinsics, height, width)
    colours = torch.zeros_like(direction) if images is None else (2 * images - 1).to(direction.dtype)
    return torch.cat([origin, direction, torch.linalg.cross(origin, direction, dim=2), colours], dim=2)
