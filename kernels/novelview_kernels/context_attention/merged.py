"""The strong baseline without a kernel of ours: two calls of PyTorch's attention, merged by their log-sum-exp.

All tokens attend to the context, each view to itself; no key is repeated. The backward pass gives each call the merged
output and log-sum-exp, which makes its softmax the global one, as in ring attention."""

from typing import Any

import torch
from torch import Tensor

from novelview_kernels.attention import reference

aten: Any = torch.ops.aten


def _attend(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, list[Any]]:
    """Return output, log-sum-exp [B, H, N] and what the backward call needs besides."""
    if q.is_cuda:
        o, lse, *rest = aten._scaled_dot_product_flash_attention(q, k, v, 0.0, False, return_debug_mask=False)
        return o, lse, rest[:6]
    o, lse = aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
    return o, lse, []


def _attend_backward(
    do: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, rest: list[Any]
) -> tuple[Tensor, Tensor, Tensor]:
    if q.is_cuda:
        cum_q, cum_k, max_q, max_k, seed, offset = rest
        return aten._scaled_dot_product_flash_attention_backward(
            do, q, k, v, o, lse, cum_q, cum_k, max_q, max_k, 0.0, False, seed, offset
        )
    return aten._scaled_dot_product_flash_attention_for_cpu_backward(do, q, k, v, o, lse, 0.0, False)


def _by_view(x: Tensor, context: int, view: int) -> Tensor:
    """[B, H, N, ...] -> [B * views, H, view, ...] of the tokens after the context."""
    return x[:, :, context:].unflatten(2, (-1, view)).transpose(1, 2).flatten(0, 1).contiguous()


def _joined(x: Tensor, batch: int) -> Tensor:
    """[B * views, H, view, ...] -> [B, H, views * view, ...]."""
    return x.unflatten(0, (batch, -1)).transpose(1, 2).flatten(2, 3)


class _Merged(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, context: int, view: int) -> Tensor:
        batch = q.shape[0]
        o, lse, rest = _attend(q, k[:, :, :context], v[:, :, :context])
        own_o, own_lse, own_rest = _attend(*(_by_view(x, context, view) for x in (q, k, v)))
        own_o, own_lse = _joined(own_o, batch), _joined(own_lse, batch)
        total = torch.logaddexp(lse[:, :, context:], own_lse)
        share = (lse[:, :, context:] - total).exp()[..., None]
        mixed = (o[:, :, context:] * share + own_o * (own_lse - total).exp()[..., None]).to(o.dtype)
        o, lse = torch.cat([o[:, :, :context], mixed], 2), torch.cat([lse[:, :, :context], total], 2)
        ctx.save_for_backward(q, k, v, o, lse)
        ctx.sizes, ctx.rest = (context, view), (rest, own_rest)
        return o

    @staticmethod
    def backward(ctx: Any, *bars: Tensor) -> tuple[Any, ...]:
        q, k, v, o, lse = ctx.saved_tensors
        (context, view), (rest, own_rest), do = ctx.sizes, ctx.rest, bars[0].contiguous()
        dq, dk, dv = _attend_backward(do, q, k[:, :, :context], v[:, :, :context], o, lse, rest)
        parts: Any = (*(_by_view(x, context, view) for x in (do, q, k, v, o, lse)), own_rest)
        own = [_joined(x, q.shape[0]) for x in _attend_backward(*parts)]
        dq = torch.cat([dq[:, :, :context], dq[:, :, context:] + own[0]], 2)
        return dq, torch.cat([dk, own[1]], 2), torch.cat([dv, own[2]], 2), None, None


def merged(qkv: Tensor, wq: Tensor, wk: Tensor, eps: float, context: int, view: int) -> Tensor:
    """Context attention as `context_attention`, context 1 or more, by two calls; [B, N, H, D]."""
    q, k, v = (x.contiguous() for x in reference.heads_first(qkv, wq, wk, eps))
    out: Any = _Merged.apply(q, k, v, context, view)
    return out.transpose(1, 2)
