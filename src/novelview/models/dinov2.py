"""DINOv2 vision transformer with registers and optional QK-norm (specs/uplvsm.md section 2.3; arXiv 2304.07193)."""

import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

from novelview.config.models import DinoConfig
from novelview.errors import CheckpointError
from novelview.models.layers import RMSNorm, attend_packed, check_size, run_blocks
from novelview.models.published import match_keys, read_state

log = logging.getLogger(__name__)

NORM_EPS = 1e-6
QK_NORM_EPS = 1e-3
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def imagenet_normalised(images: Float[Tensor, "*n 3 h w"]) -> Float[Tensor, "*n 3 h w"]:
    """Shift and scale colours in [0,1] by ImageNet's mean and deviation."""
    mean, std = (images.new_tensor(values)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / std


class PatchEmbed(nn.Module):
    """Non-overlapping patches through a strided convolution."""

    def __init__(self, cfg: DinoConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, cfg.embed_dim, cfg.patch_size, stride=cfg.patch_size)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n t d"]:
        """Return one token a patch, row by row."""
        return self.proj(images).flatten(2).mT


class DinoAttention(nn.Module):
    """Self-attention with biases and the layers that `norm` makes of a head's width on q and k."""

    def __init__(self, width: int, heads: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.q_norm, self.k_norm = norm(width // heads), norm(width // heads)

    def forward(self, x: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d"]:
        return self.proj(attend_packed(self.qkv(x), self.heads, self.q_norm, self.k_norm))


class DinoMlp(nn.Module):
    """Linear, exact GELU, Linear, with biases; as many channels out as in, or `out`."""

    def __init__(self, width: int, hidden: int, out: int | None = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, out or width)

    def forward(self, x: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d"]:
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    """A learnt factor a channel."""

    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), initial))

    def forward(self, x: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d"]:
        return x * self.gamma


class DinoBlock(nn.Module):
    """Pre-norm residual block with layer scale around an attention, which is given what is not tokens, too."""

    def __init__(self, attention: nn.Module, width: int, hidden: int, init_values: float, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = attention
        self.ls1 = LayerScale(width, init_values)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = DinoMlp(width, hidden)
        self.ls2 = LayerScale(width, init_values)

    def forward(self, x: Float[Tensor, "n t d"], *rest: Any) -> Float[Tensor, "n t d"]:
        x = x + self.ls1(self.attn(self.norm1(x), *rest))
        return x + self.ls2(self.mlp(self.norm2(x)))


class DinoVisionTransformer(nn.Module):
    """Patch tokens of images in [0,1]: raw colours, without ImageNet normalisation (a quirk of the published weights).

    Class and register tokens take part in attention and are dropped from the output."""

    def __init__(self, cfg: DinoConfig) -> None:
        super().__init__()
        self.cfg, grid = cfg, cfg.img_size // cfg.patch_size
        self.patch_embed = PatchEmbed(cfg)
        self.cls_token = nn.Parameter(torch.randn(1, 1, cfg.embed_dim) * 1e-6)
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + grid**2, cfg.embed_dim))
        registers = torch.randn(1, cfg.num_register_tokens, cfg.embed_dim) * 1e-6
        self.register_tokens = nn.Parameter(registers) if cfg.num_register_tokens else None
        norm = partial(RMSNorm, eps=QK_NORM_EPS) if cfg.qk_norm else nn.Identity
        attentions = (DinoAttention(cfg.embed_dim, cfg.num_heads, norm) for _ in range(cfg.depth))
        shape = cfg.embed_dim, int(cfg.embed_dim * cfg.mlp_ratio), cfg.init_values, NORM_EPS
        self.blocks = nn.ModuleList([DinoBlock(attention, *shape) for attention in attentions])
        self.norm = nn.LayerNorm(cfg.embed_dim, eps=NORM_EPS)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        patches = self.patch_embed.proj
        if cfg.patch_std is not None:
            nn.init.normal_(patches.weight, std=cfg.patch_std)
        if cfg.patch_centred and patches.bias is not None:
            with torch.no_grad():
                patches.bias.copy_(-0.5 * patches.weight.sum(dim=(1, 2, 3)))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        if cfg.pos_init == "sincos":
            with torch.no_grad():
                self.pos_embed[0, 1:] = cfg.pos_gain * sincos_table(grid, cfg.embed_dim)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n t d"]:
        """Return one token a patch, [n (h/p)*(w/p) d]. Raises DataError for sides that are no multiple of the patch."""
        return self._patches(run_blocks(self.blocks, self.embed(images), recompute=False))

    def intermediate(
        self, images: Float[Tensor, "n 3 h w"], layers: Collection[int], recompute: bool = False
    ) -> list[Float[Tensor, "n t d"]]:
        """Return the patch tokens after each of `layers` (counted from 0), in order, all through the final norm.

        recompute: keep no activations inside blocks for the backward pass."""
        tokens, found = self.embed(images), []
        for number, block in enumerate(self.blocks):
            tokens = run_blocks([block], tokens, recompute)
            if number in layers:
                found.append(self._patches(tokens))
        return found

    def embed(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n m d"]:
        """Return class, register and patch tokens with their positions, as the first block takes them."""
        height, width = images.shape[-2:]
        check_size(height, width, self.cfg.patch_size)
        tokens = self.patch_embed(images)
        grid = height // self.cfg.patch_size, width // self.cfg.patch_size
        table = resize_pos_embed(self.pos_embed, *grid, self.cfg.interpolate_antialias, self.cfg.interpolate_offset)
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), tokens], dim=1) + table.to(tokens.dtype)
        if self.register_tokens is None:
            return tokens
        registers = self.register_tokens.expand(len(images), -1, -1)
        return torch.cat([tokens[:, :1], registers, tokens[:, 1:]], dim=1)

    def _patches(self, tokens: Float[Tensor, "n m d"]) -> Float[Tensor, "n t d"]:
        return self.norm(tokens)[:, 1 + self.cfg.num_register_tokens :]


def resize_pos_embed(
    table: Float[Tensor, "1 n d"], rows: int, columns: int, antialias: bool, offset: float = 0.0
) -> Float[Tensor, "1 m d"]:
    """Resize the patch part of a position table (after the class entry) to a grid, bicubic in float32.

    offset: added to the rows and columns asked for before the sampling step is taken from them, as DINOv2 does."""
    side = math.isqrt(table.shape[1] - 1)
    if (rows, columns) == (side, side):
        return table
    grid = table[:, 1:].float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
    size = None if offset else (rows, columns)
    scale = ((rows + offset) / side, (columns + offset) / side) if offset else None
    resized = interpolate(grid, size, scale, mode="bicubic", antialias=antialias, align_corners=False)
    return torch.cat([table[:, :1], resized.flatten(2).mT.to(table.dtype)], dim=1)


def sincos_table(side: int, width: int) -> Float[Tensor, "n d"]:
    """Return the 2-D sine-cosine position table of a square grid; `width` must be a multiple of 4."""
    frequencies = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)
    return torch.cat([axis.repeat_interleave(side, dim=0), axis.repeat(side, 1)], dim=-1).float()


def load_dino(vit: DinoVisionTransformer, weights: str | None) -> None:
    """Load the public DINOv2 weights from a file, without `mask_token`; None leaves the initial values.

    The grafted QK-norm weights are not in the file and keep theirs. Raises CheckpointError for a file that misfits."""
    if weights is None:
        return
    if not Path(weights).is_file():
        raise CheckpointError(f"{weights}: no such file; fetch dinov2_vitb14_reg, or set model.dino.weights=null")
    state = {key: value for key, value in read_state(weights).items() if key != "mask_token"}
    grafted = {key for key in vit.state_dict() if key.endswith(("q_norm.weight", "k_norm.weight"))}
    match_keys(weights, state, vit.state_dict(), optional=grafted)
    vit.load_state_dict(state, strict=False)
    log.info("image tokenizer: public DINOv2 weights from %s", weights)


def image_tokenizer(cfg: DinoConfig) -> nn.Sequential:
    """Build the tokenizer; its published keys begin with `1.dino_vit`, after a step without parameters."""
    vit = DinoVisionTransformer(cfg)
    load_dino(vit, cfg.weights)
    return nn.Sequential(nn.Identity(), nn.Sequential(OrderedDict(dino_vit=vit)))
