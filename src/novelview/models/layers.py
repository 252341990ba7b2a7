"""Building blocks of the QK-norm transformers, and the way between pixels and tokens (specs/uplvsm.md section 2).

The one room that chooses how attention is computed: by PyTorch, or on a GPU by our kernel (docs/kernels.md)."""

from collections.abc import Iterable
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from novelview.cameras.relative import RelativeCameras
from novelview.config.models import TransformerConfig
from novelview.errors import DataError
from novelview_kernels import qk_attention
from novelview_kernels.qk_attention import chosen

BASE_STD = 0.02


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, computed in float32 and cast back."""

    def __init__(self, width: int, eps: float, initial: float = 1.0) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.full((width,), initial))

    def forward(self, x: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        return cast(Tensor, _Normalise.apply(x, self.weight, self.eps))


class _Normalise(torch.autograd.Function):
    """What RMSNorm computes, with its gradient in as few passes over `x` as there are: a fifth of a step otherwise."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.float() if x.dtype != torch.float64 else x
        inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
        normed = wide * inverse
        ctx.save_for_backward(normed, inverse, weight)
        return (normed * weight).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        normed, inverse, weight = ctx.saved_tensors
        given = gradients[0].to(normed.dtype)
        own = (given * normed).flatten(0, -2).sum(0).to(weight.dtype)
        given = given * weight
        along = (given * normed).mean(-1, keepdim=True)
        return torch.addcmul(given, normed, along, value=-1).mul_(inverse).to(gradients[0].dtype), own, None


def split_heads(packed: Float[Tensor, "b n c"], heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split a fused projection [b n 3*heads*d_head] into q, k, v of [b heads n d_head] each."""
    q, k, v = packed.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def attend(q: Tensor, k: Tensor, v: Tensor) -> Float[Tensor, "b n c"]:
    """Full bidirectional attention over [b heads n d_head], heads joined again."""
    v = v.to(q.dtype)
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and torch.is_grad_enabled():
        # The backward pass of PyTorch's own is 5 to 12 times slower there: it does not use the processor's bfloat16.
        return (((q * q.shape[-1] ** -0.5) @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2)
    return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def attend_packed(
    packed: Float[Tensor, "b n c"], heads: int, q_norm: nn.Module, k_norm: nn.Module
) -> Float[Tensor, "b n d"]:
    """Full bidirectional attention from a fused projection, q and k normalised by `q_norm` and `k_norm`."""
    if isinstance(q_norm, RMSNorm) and isinstance(k_norm, RMSNorm) and q_norm.eps == k_norm.eps:
        qkv = packed.unflatten(-1, (3, heads, -1))
        if chosen(qkv) != "torch":
            return qk_attention(qkv, q_norm.weight, k_norm.weight, q_norm.eps).flatten(2)
    q, k, v = split_heads(packed, heads)
    return attend(q_norm(q), k_norm(k), v)


def attend_placed(q: Tensor, k: Tensor, v: Tensor, place: RelativeCameras) -> Float[Tensor, "b n c"]:
    """Attend with queries, keys and values that `place` has transformed, and transform what comes out of it."""
    heads = attend(q, k, v).unflatten(-1, (q.shape[1], -1)).transpose(1, 2)
    return place.output(heads).transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Multi-head self-attention with one fused bias-free projection and RMSNorm on q and k."""

    def __init__(self, cfg: TransformerConfig) -> None:
        super().__init__()
        self.heads = cfg.d // cfg.d_head
        self.to_qkv = nn.Linear(cfg.d, 3 * cfg.d, bias=False)
        self.fc = nn.Linear(cfg.d, cfg.d, bias=False)
        norm = partial(RMSNorm, eps=cfg.qk_norm_eps, initial=cfg.qk_norm_init) if cfg.qk_norm else nn.Identity
        self.q_norm, self.k_norm = norm(cfg.d_head), norm(cfg.d_head)

    def forward(self, x: Float[Tensor, "b n d"], place: RelativeCameras | None = None) -> Float[Tensor, "b n d"]:
        """Attend, `place` turning the tokens of cameras against each other."""
        if place is None:
            return self.fc(attend_packed(self.to_qkv(x), self.heads, self.q_norm, self.k_norm))
        q, k, v = self.projected(x)
        return self.fc(attend_placed(place.query(q), place.key(k), place.key(v), place))

    def projected(self, x: Float[Tensor, "b n d"]) -> tuple[Tensor, Tensor, Tensor]:
        """Return normalised q, normalised k and v, [b heads n d_head] each."""
        q, k, v = split_heads(self.to_qkv(x), self.heads)
        return self.q_norm(q), self.k_norm(k), v

    def weights(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n n"]:
        """Return the attention weights averaged over heads; rows sum to 1."""
        q, k, _ = self.projected(x)
        return (q.float() @ k.float().mT * q.shape[-1] ** -0.5).softmax(-1).mean(1)


class FeedForward(nn.Module):
    """Linear d -> 4d, exact GELU, Linear 4d -> d, without biases."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d, bias=False), nn.GELU(), nn.Linear(4 * d, d, bias=False))

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        return self.mlp(x)


class Block(nn.Module):
    """Pre-norm residual block: attention, then feed-forward."""

    def __init__(self, cfg: TransformerConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(cfg.d, bias=False)
        self.attn = Attention(cfg)
        self.norm2 = nn.LayerNorm(cfg.d, bias=False)
        self.mlp = FeedForward(cfg.d)

    def forward(self, x: Float[Tensor, "b n d"], place: RelativeCameras | None = None) -> Float[Tensor, "b n d"]:
        x = x + self.attn(self.norm1(x), place)
        return x + self.mlp(self.norm2(x))


def run_blocks(
    blocks: Iterable[nn.Module], x: Float[Tensor, "b n d"], recompute: bool, *more: object
) -> Float[Tensor, "b n d"]:
    """Apply blocks(x, *more) in turn; with `recompute` activations are recomputed in the backward pass, not kept."""
    recompute = recompute and torch.is_grad_enabled()
    for block in blocks:
        x = cast(Tensor, checkpoint(block, x, *more, use_reentrant=False)) if recompute else block(x, *more)
    return x


def make_blocks(cfg: TransformerConfig, count: int) -> nn.ModuleList:
    """Build a stack of blocks, initialised as published: N(0, 0.02 / sqrt(2 (index + 1))) times `init_gain`."""
    blocks = nn.ModuleList([Block(cfg) for _ in range(count)])
    for index, block in enumerate(blocks):
        depth = (index + 1 if cfg.depth_init else count) if cfg.special_init else 0.5
        init_linears(block, cfg.init_gain * BASE_STD / (2 * depth) ** 0.5)
    return blocks


def init_linears(module: nn.Module, std: float) -> None:
    """Draw the weight of every linear layer from N(0, std) and set biases to 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def check_size(height: int, width: int, patch: int) -> None:
    """Raise DataError unless both sides are multiples of the patch size."""
    if height % patch or width % patch or not height or not width:
        raise DataError(f"images of {width}x{height} pixels cannot be cut into {patch}-pixel patches; resize them")


class Patchify(nn.Module):
    """[n c h w] -> [n patches patch*patch*c]: patches row by row, each flattened as (row, column, channel)."""

    def __init__(self, patch: int) -> None:
        super().__init__()
        self.patch = patch

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n t k"]:
        check_size(x.shape[-2], x.shape[-1], self.patch)
        cut = x.unflatten(-1, (-1, self.patch)).unflatten(-3, (-1, self.patch))
        return cut.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(x: Float[Tensor, "n t k"], patch: int, height: int, width: int) -> Float[Tensor, "n 3 h w"]:
    """Put patches flattened as (row, column, channel) back into images."""
    grid = x.unflatten(-1, (patch, patch, 3)).unflatten(1, (height // patch, width // patch))
    return grid.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def patch_tokenizer(d: int, patch: int, gain: float, channels: int = 6) -> nn.Sequential:
    """Build the tokenizer of a map, by default of Plücker coordinates: patches through one bias-free linear layer."""
    tokenizer = nn.Sequential(Patchify(patch), nn.Linear(channels * patch * patch, d, bias=False))
    init_linears(tokenizer, BASE_STD * gain)
    return tokenizer


def image_token_decoder(d: int, patch: int, gain: float) -> nn.Sequential:
    """Build the head from tokens to the colours of their patches in [0,1]."""
    decoder = nn.Sequential(nn.LayerNorm(d, bias=False), nn.Linear(d, 3 * patch * patch, bias=False), nn.Sigmoid())
    init_linears(decoder, BASE_STD * gain)
    return decoder
