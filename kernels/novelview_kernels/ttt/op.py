"""The fast-weight operators registered with PyTorch: CPU and CUDA, shapes, autograd."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from novelview_kernels import backend
from novelview_kernels.ttt import answer, run

UPDATE, APPLY = "novelview::ttt_update", "novelview::ttt_apply"


def _interpreted() -> None:
    if not backend.interpreting():
        raise RuntimeError("on CPU these operators exist in interpreted form only; call ttt_update or ttt_apply")


@torch.library.custom_op(UPDATE, mutates_args=(), device_types="cpu")
def ttt_update(
    w: Sequence[Tensor], norms: Sequence[Tensor], k: Tensor, v: Tensor, lr: Tensor, steps: int
) -> list[Tensor]:
    """Return w0, w1, w2 updated, the same in k's type, and the directions [3, n, d, m]."""
    _interpreted()
    return _flat(run.update(w, norms, k, v, lr, steps))


def _flat(result: tuple[list[Tensor], list[Tensor], Tensor]) -> list[Tensor]:
    new, low, g = result
    return [*new, *low, g]


@ttt_update.register_kernel("cuda")
def _(w: Sequence[Tensor], norms: Sequence[Tensor], k: Tensor, v: Tensor, lr: Tensor, steps: int) -> list[Tensor]:
    return _flat(run.update(w, norms, k, v, lr, steps))


@ttt_update.register_fake
def _(w: Sequence[Tensor], norms: Sequence[Tensor], k: Tensor, v: Tensor, lr: Tensor, steps: int) -> list[Tensor]:
    new = [x.new_empty(x.shape) for x in w]
    return [*new, *(x.new_empty(x.shape, dtype=k.dtype) for x in w), w[0].new_empty(3, *w[0].shape)]


@torch.library.custom_op(UPDATE + "_backward", mutates_args=(), device_types="cpu")
def ttt_update_backward(
    bars: Sequence[Tensor], w: Sequence[Tensor], norms: Sequence[Tensor],
    k: Tensor, v: Tensor, lr: Tensor, g: Tensor, steps: int,
) -> list[Tensor]:  # fmt: skip
    """Return the gradients of w0, w1, w2, k, v, lr."""
    _interpreted()
    totals, *tokens = run.update_backward(bars, w, norms, k, v, lr, g, steps)
    return [*totals, *tokens]


@ttt_update_backward.register_kernel("cuda")
def _(
    bars: Sequence[Tensor], w: Sequence[Tensor], norms: Sequence[Tensor],
    k: Tensor, v: Tensor, lr: Tensor, g: Tensor, steps: int,
) -> list[Tensor]:  # fmt: skip
    totals, *tokens = run.update_backward(bars, w, norms, k, v, lr, g, steps)
    return [*totals, *tokens]


@ttt_update_backward.register_fake
def _(
    bars: Sequence[Tensor], w: Sequence[Tensor], norms: Sequence[Tensor],
    k: Tensor, v: Tensor, lr: Tensor, g: Tensor, steps: int,
) -> list[Tensor]:  # fmt: skip
    return [x.new_empty(x.shape) for x in (*w, k, v, lr)]


def _save_update(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    w, norms, k, v, lr, ctx.steps = inputs
    ctx.save_for_backward(*w, *norms, k, v, lr, output[6])


def _update_backward(ctx: Any, bars: Sequence[Tensor]) -> tuple[Any, ...]:
    saved = ctx.saved_tensors
    given = [torch.zeros_like(x) if bar is None else bar for bar, x in zip(bars[:3], saved[:3], strict=True)]
    found = ttt_update_backward(given, list(saved[:3]), list(saved[3:6]), *saved[6:], ctx.steps)
    return found[:3], [None] * 3, *found[3:], None


torch.library.register_autograd(UPDATE, _update_backward, setup_context=_save_update)


@torch.library.custom_op(APPLY, mutates_args=(), device_types="cpu")
def ttt_apply(w: Sequence[Tensor], low: Sequence[Tensor], q: Tensor) -> Tensor:
    """Return the answers; `low` are the weights w in q's type, and gradients go to w."""
    _interpreted()
    return answer.forward(low, q)


@ttt_apply.register_kernel("cuda")
def _(w: Sequence[Tensor], low: Sequence[Tensor], q: Tensor) -> Tensor:
    return answer.forward(low, q)


@ttt_apply.register_fake
def _(w: Sequence[Tensor], low: Sequence[Tensor], q: Tensor) -> Tensor:
    return q.new_empty(q.shape)


@torch.library.custom_op(APPLY + "_backward", mutates_args=(), device_types="cpu")
def ttt_apply_backward(bar: Tensor, low: Sequence[Tensor], q: Tensor) -> list[Tensor]:
    """Return the gradients of w0, w1, w2 in float32 and q."""
    _interpreted()
    totals, q_bar = answer.backward(bar, low, q)
    return [*totals, q_bar]


@ttt_apply_backward.register_kernel("cuda")
def _(bar: Tensor, low: Sequence[Tensor], q: Tensor) -> list[Tensor]:
    totals, q_bar = answer.backward(bar, low, q)
    return [*totals, q_bar]


@ttt_apply_backward.register_fake
def _(bar: Tensor, low: Sequence[Tensor], q: Tensor) -> list[Tensor]:
    return [*(x.new_empty(x.shape, dtype=torch.float32) for x in low), q.new_empty(q.shape)]


def _save_apply(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    w, low, q = inputs
    ctx.save_for_backward(*low, q)
    ctx.dtypes = [x.dtype for x in w]


def _apply_backward(ctx: Any, bar: Tensor) -> tuple[Any, ...]:
    *low, q = ctx.saved_tensors
    *shares, q_bar = ttt_apply_backward(bar, low, q)
    return [x.to(dtype) for x, dtype in zip(shares, ctx.dtypes, strict=True)], [None] * 3, q_bar


torch.library.register_autograd(APPLY, _apply_backward, setup_context=_save_apply)
