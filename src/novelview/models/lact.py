"""LaCT: fast weights learn the context views in one pass, then answer any camera (arXiv 2505.23884, specs/lact.md).

Attribute and parameter names are those of the published checkpoints."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, silu, softplus
from torch.utils.checkpoint import checkpoint

from novelview.cameras.camera import rays
from novelview.config.models import LaCTConfig
from novelview.devices import full_precision
from novelview.errors import DataError
from novelview.models import layers
from novelview.models.render import Images, Lenses, PosedTargets, Poses, Render
from novelview.models.ttt import FastWeights, Span, ttt_update_apply
from novelview.scenes.batch import Views

CHANNELS = 12  # origin, direction, origin x direction, colour
QK_EPS = torch.finfo(torch.float32).eps
NORM_EPS = 1e-5


class WindowAttention(nn.Module):
    """Multi-head self-attention among the tokens of one view, with RMSNorm on q and k."""

    def __init__(self, cfg: LaCTConfig) -> None:
        super().__init__()
        self.heads = cfg.d // cfg.d_head
        self.to_qkv = nn.Linear(cfg.d, 3 * cfg.d, bias=False)
        self.c_proj = nn.Linear(cfg.d, cfg.d, bias=False)
        norm = partial(layers.RMSNorm, eps=QK_EPS) if cfg.qk_norm else nn.Identity
        self.q_norm, self.k_norm = norm(cfg.d_head), norm(cfg.d_head)

    def forward(self, x: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d"]:
        return self.c_proj(layers.attend_packed(self.to_qkv(x), self.heads, self.q_norm, self.k_norm))


class FastWeightLayer(nn.Module):
    """Fast weights that learn keys and values of context tokens, and answer queries of any token."""

    def __init__(self, cfg: LaCTConfig) -> None:
        super().__init__()
        self.cfg, self.heads = cfg.ttt, cfg.d // cfg.ttt.d_head
        width, hidden = cfg.ttt.d_head, int(cfg.ttt.d_head * cfg.ttt.inter_multi)
        self.w0 = nn.Parameter(torch.randn(self.heads, width, hidden) * (2 / width) ** 0.5)
        self.w1 = nn.Parameter(torch.randn(self.heads, hidden, width) * (2 / hidden) ** 0.5)
        self.w2 = nn.Parameter(torch.randn(self.heads, width, hidden) * (2 / width) ** 0.5)
        self.to_qkv = nn.Linear(cfg.d, 3 * cfg.d, bias=False)
        self.c_proj = nn.Linear(cfg.d, cfg.d, bias=False)
        self.lr_fc = nn.Linear(cfg.d, 3 * self.heads)
        self.lr_offset = math.log(math.expm1(cfg.ttt.base_lr))  # softplus makes it the base rate again
        self.o_norm = layers.RMSNorm(width, NORM_EPS)

    def forward(
        self, x: Float[Tensor, "b l d"], spans: Sequence[Span], weights: FastWeights | None = None
    ) -> tuple[Float[Tensor, "b a d"], FastWeights]:
        """Work through `spans` from the learnt start weights, or from `weights` ([b*heads ...] each) where given."""
        last = max([0, *(span.end for span in spans if span.update)])
        q, (k, v), lr = _unit(*self._projected(x, 0, 1)), self.keys_and_values(x[:, :last]), self.rates(x[:, :last])
        start = self.start(len(x)) if weights is None else weights
        o, weights = ttt_update_apply(start, q, k, v, lr, spans, self.cfg.steps, self.cfg.precision)
        joined = self.o_norm(o).unflatten(0, (-1, self.heads)).transpose(1, 2).flatten(2)
        return self.c_proj(joined), weights

    def start(self, batch: int) -> FastWeights:
        """Return the learnt start weights, the same for every sequence."""
        return FastWeights(*(w.expand(batch, -1, -1, -1).flatten(0, 1) for w in (self.w0, self.w1, self.w2)))

    def keys_and_values(self, x: Float[Tensor, "b t d"]) -> tuple[Float[Tensor, "n t w"], Float[Tensor, "n t w"]]:
        """Return keys of unit length and values."""
        k, v = self._projected(x, 1, 3)
        return _unit(k), v

    def _projected(self, x: Tensor, first: int, end: int) -> list[Tensor]:
        d = x.shape[-1]
        packed = silu(linear(x, self.to_qkv.weight[first * d : end * d]))
        heads = packed.unflatten(-1, (end - first, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return [part.flatten(0, 1) for part in heads]

    def rates(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "3 n t"]:
        """Return the learning rates of w0, w1, w2 for every token and head, in float32 also under autocast."""
        with full_precision(x):
            moved = self.lr_fc(x.to(self.lr_fc.weight.dtype)) + self.lr_offset
            return softplus(moved).unflatten(-1, (3, self.heads)).permute(2, 0, 3, 1).flatten(1, 2)


def _unit(x: Tensor) -> Tensor:
    wide = x.float() if x.dtype != torch.float64 else x
    return wide / (wide.norm(dim=-1, keepdim=True) + NORM_EPS)


class Mlp(nn.Module):
    """Linear d -> multi*d, exact GELU, Linear multi*d -> d, without biases."""

    def __init__(self, cfg: LaCTConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(cfg.d, cfg.mlp_multi * cfg.d, bias=False)
        self.c_proj = nn.Linear(cfg.mlp_multi * cfg.d, cfg.d, bias=False)

    def forward(self, x: Float[Tensor, "b l d"]) -> Float[Tensor, "b l d"]:
        return self.c_proj(gelu(self.c_fc(x)))


class Normed(nn.Module):
    """A layer behind its LayerNorm."""

    def __init__(self, d: int, f: nn.Module) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(d, bias=False)
        self.f = f

    def forward(self, x: Float[Tensor, "*b d"], *rest: Any) -> Any:
        return self.f(self.ln(x), *rest)


class Block(nn.Module):
    """Three residual layers in turn: within each view, across views, of each token."""

    def __init__(self, cfg: LaCTConfig) -> None:
        super().__init__()
        inner = WindowAttention(cfg), FastWeightLayer(cfg), Mlp(cfg)
        self.module_list = nn.ModuleList([Normed(cfg.d, layer) for layer in inner])

    def forward(
        self, x: Float[Tensor, "b v t d"], spans: Sequence[Span], weights: FastWeights | None = None
    ) -> tuple[Float[Tensor, "b v t d"], FastWeights]:
        """Transform the tokens of all views, which `spans` answer once, in order; return the fast weights."""
        attention, fast, mlp = self.module_list
        y = (x + attention(x.flatten(0, 1)).view_as(x)).flatten(1, 2)
        answers, learnt = fast(y, spans, weights)
        y = y + answers
        return (y + mlp(y)).view_as(x), learnt


@dataclass
class SceneState:
    """A scene as the fast weights of every block ([b*heads ...] each) know it; its size knows nothing of the views."""

    blocks: list[FastWeights]
    scenes: int  # b


class LaCT(PosedTargets):
    """Renders target cameras from any number of posed context views, at a cost that grows linearly with them."""

    def __init__(self, cfg: LaCTConfig) -> None:
        super().__init__()
        self.cfg, self.patch_size = cfg, cfg.patch_size
        self.patchify = layers.Patchify(cfg.patch_size)
        self.input_linear = nn.Linear(CHANNELS * cfg.patch_size**2, cfg.d, bias=False)
        self.input_layernorm = nn.LayerNorm(cfg.d, bias=False)
        self.blocks = nn.ModuleList([Block(cfg) for _ in range(cfg.n_layer)])
        self.image_token_decoder = layers.image_token_decoder(cfg.d, cfg.patch_size, cfg.init_gain)
        layers.init_linears(self, layers.BASE_STD * cfg.init_gain)
        std = layers.BASE_STD * cfg.init_gain / (3 * cfg.n_layer) ** 0.5  # of what writes to the residual stream
        for name, parameter in self.named_parameters():
            if name.endswith("c_proj.weight"):
                nn.init.normal_(parameter, std=std)

    def forward(self, context: Views, target: Views) -> Render:
        """Render the target cameras at the context's size in one pass: the same as `render` after `reconstruct`."""
        images = self.checked(context)
        size = images.shape[-2:]
        known = self.tokens(images, self.posed(context, "context"), context.intrinsics)
        asked = self.tokens(None, self.posed(target, "target"), target.intrinsics, size)
        x = torch.cat([known, asked], dim=1)
        learnt, every = (part.shape[1] * part.shape[2] for part in (known, x))
        x, _ = self.run(x, [Span(0, learnt, True, False), Span(0, every, False, True)])
        return Render(self.pictures(x[:, known.shape[1] :], *size))

    def reconstruct(self, context: Views) -> SceneState:
        """Learn the context views; any camera can be rendered from the result, as often as one likes."""
        images = self.checked(context)
        x = self.tokens(images, self.posed(context, "context"), context.intrinsics)
        _, states = self.run(x, [Span(0, x.shape[1] * x.shape[2], True, True)])
        return SceneState(states, len(x))

    def render(self, scene: SceneState, c2w: Poses, intrinsics: Lenses, height: int, width: int) -> Images:
        """Render cameras, in the frame of the context's, of a scene learnt before; no camera sees another.

        Raises DataError when the state is of other scenes than the cameras, or sides are no multiple of the patch."""
        if scene.scenes != len(c2w):
            raise DataError(f"a state of {scene.scenes} scenes cannot render cameras of {len(c2w)} scenes")
        blocks = [module for module in self.modules() if isinstance(module, FastWeightLayer)]
        own = [(scene.scenes * len(w), *w.shape[1:]) for block in blocks for w in (block.w0, block.w1, block.w2)]
        if [tuple(w.shape) for block in scene.blocks for w in block] != own:
            raise DataError("the state is of a model of another size; reconstruct the scene with this one")
        x = self.tokens(None, c2w, intrinsics, (height, width))
        x, _ = self.run(x, [Span(0, x.shape[1] * x.shape[2], False, True)], scene.blocks)
        return self.pictures(x, height, width)

    encode = reconstruct
    decode = render

    def tokens(
        self, images: Images | None, c2w: Poses, intrinsics: Lenses, size: Sequence[int] = ()
    ) -> Float[Tensor, "b v t d"]:
        """Return the tokens of posed images, or of cameras alone, mid-grey and of `size` (height, width)."""
        patches = self.patchify(posed_pixels(images, c2w, intrinsics, size).flatten(0, 1))
        return self.input_layernorm(self.input_linear(patches)).unflatten(0, c2w.shape[:2])

    def run(
        self, x: Float[Tensor, "b v t d"], spans: list[Span], states: Sequence[FastWeights] | None = None
    ) -> tuple[Float[Tensor, "b v t d"], list[FastWeights]]:
        """Send tokens through all blocks; return them and each block's fast weights."""
        recompute = self.activation_checkpointing and torch.is_grad_enabled()
        left = []
        for block, state in zip(self.blocks, states or [None] * len(self.blocks), strict=True):
            x, weights = (
                checkpoint(block, x, spans, state, use_reentrant=False) if recompute else block(x, spans, state)
            )
            left.append(weights)
        return x, left

    def pictures(self, x: Float[Tensor, "b v t d"], height: int, width: int) -> Images:
        """Return the images that tokens say."""
        colours = self.image_token_decoder(x.flatten(0, 1))
        return layers.unpatchify(colours, self.patch_size, height, width).unflatten(0, x.shape[:2])


def posed_pixels(
    images: Images | None, c2w: Poses, intrinsics: Lenses, size: Sequence[int] = ()
) -> Float[Tensor, "b v 12 h w"]:
    """Return every pixel's ray (origin, direction, origin x direction) and its colour in [-1,1]; 0 without images."""
    height, width = size if images is None else images.shape[-2:]
    origin, direction = rays(c2w, intrinsics, height, width)
    colours = torch.zeros_like(direction) if images is None else (2 * images - 1).to(direction.dtype)
    return torch.cat([origin, direction, torch.linalg.cross(origin, direction, dim=2), colours], dim=2)
