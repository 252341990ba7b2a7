"""The block of LaCT: attention within each view, fast weights across views, an MLP (specs/lact.md section 2).

Attribute and parameter names are those of the published checkpoints.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, silu, softplus

from novelview.config.models import LaCTConfig
from novelview.devices import full_precision
from novelview.models.lact.ttt import FastWeights, Row, ttt_update_apply
from novelview.models.layers import RMSNorm, attend_packed

QK_EPS = torch.finfo(torch.float32).eps
NORM_EPS = 1e-5


class WindowAttention(nn.Module):
    """Multi-head self-attention among the tokens of one view, with RMSNorm on q and k."""

    def __init__(self, cfg: LaCTConfig) -> None:
        super().__init__()
        self.heads = cfg.d // cfg.d_head
        self.to_qkv = nn.Linear(cfg.d, 3 * cfg.d, bias=False)
        self.c_proj = nn.Linear(cfg.d, cfg.d, bias=False)
        self.q_norm = RMSNorm(cfg.d_head, QK_EPS) if cfg.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(cfg.d_head, QK_EPS) if cfg.qk_norm else nn.Identity()

    def forward(self, x: Float[Tensor, "n t d"]) -> Float[Tensor, "n t d"]:
        """Attend within each of n sequences."""
        return self.c_proj(attend_packed(self.to_qkv(x), self.heads, self.q_norm, self.k_norm))


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
        self.lr_offset = inverse_softplus(cfg.ttt.base_lr)
        self.o_norm = RMSNorm(width, NORM_EPS)

    def forward(
        self, x: Float[Tensor, "b l d"], rows: Sequence[Row], weights: FastWeights | None = None
    ) -> tuple[Float[Tensor, "b a d"], FastWeights]:
        """Work through `rows` from the learnt start weights, or from `weights` ([b*heads ...] each) where given."""
        last = max([0, *(row.end for row in rows if row.update)])
        q, (k, v) = self.queries(x), self.lessons(x[:, :last])
        start = self.start(len(x)) if weights is None else weights
        lr = self.rates(x[:, :last])
        o, weights = ttt_update_apply(start, q, k, v, lr, rows, self.cfg.steps, self.cfg.precision)
        joined = self.o_norm(o).unflatten(0, (-1, self.heads)).transpose(1, 2).flatten(2)
        return self.c_proj(joined), weights

    def start(self, batch: int) -> FastWeights:
        """Return the learnt start weights, the same for every sequence."""
        return FastWeights(*(w.expand(batch, -1, -1, -1).flatten(0, 1) for w in (self.w0, self.w1, self.w2)))

    def fits(self, weights: FastWeights, batch: int) -> bool:
        """Tell whether fast weights of `batch` sequences have this layer's sizes."""
        own = (self.w0, self.w1, self.w2)
        return all(w.shape == (batch * len(p), *p.shape[1:]) for w, p in zip(weights, own, strict=True))

    def queries(self, x: Float[Tensor, "b l d"]) -> Float[Tensor, "n l w"]:
        """Return queries of unit length."""
        (q,) = self._projected(x, 0, 1)
        return _unit(q)

    def lessons(self, x: Float[Tensor, "b t d"]) -> tuple[Float[Tensor, "n t w"], Float[Tensor, "n t w"]]:
        """Return keys of unit length and values; only tokens that are learnt from need them."""
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


def inverse_softplus(x: float) -> float:
    """Return y with softplus(y) = x, for x > 0."""
    return math.log(math.expm1(x))


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
        """Transform every token."""
        return self.c_proj(gelu(self.c_fc(x)))


class Normed(nn.Module):
    """A layer behind its LayerNorm."""

    def __init__(self, d: int, f: nn.Module) -> None:
        super().__init__()
        self.ln = nn.LayerNorm(d, bias=False)
        self.f = f

    def forward(self, x: Float[Tensor, "*b d"], *rest: Any) -> Any:
        """Normalise tokens and pass them, and `rest`, on."""
        return self.f(self.ln(x), *rest)


class Block(nn.Module):
    """Three residual layers in turn: within each view, across views, of each token."""

    def __init__(self, cfg: LaCTConfig) -> None:
        super().__init__()
        layers = (WindowAttention(cfg), FastWeightLayer(cfg), Mlp(cfg))
        self.module_list = nn.ModuleList([Normed(cfg.d, layer) for layer in layers])

    def forward(
        self, x: Float[Tensor, "b v t d"], rows: Sequence[Row], weights: FastWeights | None = None
    ) -> tuple[Float[Tensor, "b v t d"], FastWeights]:
        """Transform the tokens of all views, which `rows` answer exactly once, in order; return the fast weights."""
        attention, fast, mlp = self.module_list
        y = (x + attention(x.flatten(0, 1)).view_as(x)).flatten(1, 2)
        answers, learnt = fast(y, rows, weights)
        y = y + answers
        return (y + mlp(y)).view_as(x), learnt
