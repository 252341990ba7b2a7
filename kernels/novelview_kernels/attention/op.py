"""The attention operators registered with PyTorch: forward and backward for CPU and CUDA, shapes, autograd.

`custom_op` with an own kernel for each device, never `triton_op`: on a machine without a GPU that would have
torch.compile and opcheck trace into Triton (specs/kernels_feasibility.md section 6)."""

from typing import Any

import torch
from torch import Tensor

from novelview_kernels import backend
from novelview_kernels.attention import reference, run

NAME = "novelview::attention"


@torch.library.custom_op(NAME, mutates_args=(), device_types="cpu")
def attention(
    qkv: Tensor, wq: Tensor, wk: Tensor, eps: float, context: int, view: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return o [B, N, H, D], lse [B, H, N], hat [2, B, H, N, D], rstd [2, B, H, N] for qkv [B, N, 3, H, D]."""
    forward = run.forward if backend.interpreting() else reference.forward
    o, lse, hat, rstd = forward(qkv, wq, wk, eps, context, view)
    return o, lse, hat, rstd


@attention.register_kernel("cuda")
def _(
    qkv: Tensor, wq: Tensor, wk: Tensor, eps: float, context: int, view: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    o, lse, hat, rstd = run.forward(qkv, wq, wk, eps, context, view)
    return o, lse, hat, rstd


@attention.register_fake
def _(
    qkv: Tensor, wq: Tensor, wk: Tensor, eps: float, context: int, view: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    b, n, _, h, d = qkv.shape
    wide = torch.promote_types(qkv.dtype, torch.float32)
    o = qkv.new_empty(b, n, h, d)
    lse = qkv.new_empty(b, h, n, dtype=wide)
    return o, lse, qkv.new_empty(2, b, h, n, d), qkv.new_empty(2, b, h, n, dtype=wide)


@torch.library.custom_op(NAME + "_backward", mutates_args=(), device_types="cpu")
def attention_backward(
    do: Tensor, qkv: Tensor, wq: Tensor, wk: Tensor, o: Tensor, lse: Tensor, hat: Tensor, rstd: Tensor,
    context: int, view: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Return gradients of qkv and of both weights."""
    backward = run.backward if backend.interpreting() else reference.backward
    return backward(do, qkv, wq, wk, run.Saved(o, lse, hat, rstd), context, view)


@attention_backward.register_kernel("cuda")
def _(
    do: Tensor, qkv: Tensor, wq: Tensor, wk: Tensor, o: Tensor, lse: Tensor, hat: Tensor, rstd: Tensor,
    context: int, view: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return run.backward(do, qkv, wq, wk, run.Saved(o, lse, hat, rstd), context, view)


@attention_backward.register_fake
def _(
    do: Tensor, qkv: Tensor, wq: Tensor, wk: Tensor, o: Tensor, lse: Tensor, hat: Tensor, rstd: Tensor,
    context: int, view: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    dqkv = torch.empty(qkv.shape, dtype=qkv.dtype, device=qkv.device)
    return dqkv, rstd.new_empty(wq.shape), rstd.new_empty(wk.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    qkv, wq, wk, _, ctx.context, ctx.view = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(qkv, wq, wk, *output)


def _backward(ctx: Any, do: Tensor, *unused: Tensor) -> tuple[Tensor | None, ...]:
    qkv, wq, wk, o, lse, hat, rstd = ctx.saved_tensors
    dqkv, dwq, dwk = attention_backward(do, qkv, wq, wk, o, lse, hat, rstd, ctx.context, ctx.view)
    return dqkv, dwq.to(wq.dtype), dwk.to(wk.dtype), None, None, None


torch.library.register_autograd(NAME, _backward, setup_context=_save)
