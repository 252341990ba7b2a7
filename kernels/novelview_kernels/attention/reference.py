"""Plain PyTorch for both attention operators: what the kernels are held to, in any floating type.

`dense` and `merged` are what runs where no kernel is faster; `forward` and `backward` spell out every formula."""

import math

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from novelview_kernels.attention.run import Saved


def root_mean_square(x: Tensor, eps: float) -> Tensor:
    """Return 1 / sqrt(mean(x^2) + eps) over the last axis, in float32 at least."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return torch.rsqrt(wide.square().mean(-1) + eps)


def normalised(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return x * rstd * weight, rounded once to x's type."""
    rstd = root_mean_square(x, eps)[..., None]
    return (x.to(rstd.dtype) * rstd * weight.to(rstd.dtype)).to(x.dtype)


def heads_first(qkv: Tensor, wq: Tensor, wk: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return normalised q, normalised k and v, [B, H, N, D] each, from qkv [B, N, 3, H, D]."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    return normalised(q, wq, eps), normalised(k, wk, eps), v


def dense(qkv: Tensor, wq: Tensor, wk: Tensor, eps: float) -> Tensor:
    """QK-norm attention by PyTorch's scaled dot-product attention, [B, N, H, D]."""
    return scaled_dot_product_attention(*heads_first(qkv, wq, wk, eps)).transpose(1, 2)


def repeated(qkv: Tensor, wq: Tensor, wk: Tensor, eps: float, context: int, view: int) -> Tensor:
    """Context attention with the context's keys and values repeated for every view, [B, N, H, D]."""
    q, k, v = heads_first(qkv, wq, wk, eps)
    o = scaled_dot_product_attention(q[:, :, :context], k[:, :, :context], v[:, :, :context]) if context else None
    b, h, n, d = q.shape
    views = (n - context) // view
    mine = [x[:, :, context:].unflatten(2, (views, view)).transpose(1, 2).flatten(0, 1) for x in (q, k, v)]
    shared = [x[:, None, :, :context].expand(-1, views, -1, -1, -1).flatten(0, 1) for x in (k, v)]
    keys, values = torch.cat([shared[0], mine[1]], 2), torch.cat([shared[1], mine[2]], 2)
    own = scaled_dot_product_attention(mine[0], keys, values)
    own = own.unflatten(0, (b, views)).transpose(1, 2).reshape(b, h, n - context, d)
    return (own if o is None else torch.cat([o, own], 2)).transpose(1, 2)


def allowed(n: int, context: int, view: int, device: torch.device) -> Tensor:
    """Return which keys [n] each query [n] sees: the context, and its own view."""
    segment = torch.arange(n, device=device)
    segment = torch.where(segment < context, -1, (segment - context) // max(view, 1))
    return (segment[None, :] == -1) | (segment[:, None] == segment[None, :])


def forward(qkv: Tensor, wq: Tensor, wk: Tensor, eps: float, context: int, view: int) -> Saved:
    """The operator's forward as formulas, with the whole matrix of scores in memory."""
    q, k, v = heads_first(qkv, wq, wk, eps)
    rstd = torch.stack([root_mean_square(x, eps).transpose(1, 2) for x in qkv.unbind(2)[:2]])
    s = q.to(rstd.dtype) @ k.to(rstd.dtype).mT * q.shape[-1] ** -0.5
    s = s.masked_fill(~allowed(q.shape[2], context, view, q.device), -math.inf)
    lse = s.logsumexp(-1)
    o = ((s - lse[..., None]).exp() @ v.to(s.dtype)).to(qkv.dtype)
    return Saved(o.transpose(1, 2).contiguous(), lse / math.log(2), torch.stack([q, k]), rstd.contiguous())


def backward(
    do: Tensor, qkv: Tensor, wq: Tensor, wk: Tensor, saved: Saved, context: int, view: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The operator's backward as formulas: gradients of qkv and of both norm weights."""
    q, k = saved.hat.to(saved.rstd.dtype).unbind(0)
    v, do, o = (x.transpose(1, 2).to(q.dtype) for x in (qkv[:, :, 2], do, saved.o))
    scale = q.shape[-1] ** -0.5
    s = (q @ k.mT * scale).masked_fill(~allowed(q.shape[2], context, view, q.device), -math.inf)
    p = (s - saved.lse[..., None] * math.log(2)).exp()
    ds = p * (do @ v.mT - (o * do).sum(-1, keepdim=True)) * scale
    dq, dwq = norm_backward(ds @ k, qkv[:, :, 0].transpose(1, 2), saved.rstd[0], wq)
    dk, dwk = norm_backward(ds.mT @ q, qkv[:, :, 1].transpose(1, 2), saved.rstd[1], wk)
    dqkv = torch.stack([dq, dk, p.mT @ do]).permute(1, 3, 0, 2, 4).to(qkv.dtype).contiguous()
    return dqkv, dwq, dwk


def norm_backward(g: Tensor, x: Tensor, rstd: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return dx = rstd * (g w - xhat mean(g w xhat)) and dweight = sum g xhat, with xhat = x * rstd."""
    xhat = x.to(g.dtype) * rstd[..., None]
    gw = g * weight.to(g.dtype)
    dx = rstd[..., None] * (gw - xhat * (gw * xhat).mean(-1, keepdim=True))
    return dx, (g * xhat).flatten(0, -2).sum(0)
