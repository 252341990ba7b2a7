"""Test-time training: fast weights that learn keys and values, and answer queries (formulas in README.md)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from novelview_kernels import backend
from novelview_kernels.ttt import closed_form, configs
from novelview_kernels.ttt import op as _op
from novelview_kernels.ttt.reference import FastWeights

UPDATE, APPLY = "ttt_update", "ttt_apply"


def chosen(op: str, w0: Tensor, tokens: Tensor) -> str:
    """Return what `ttt_update` or `ttt_apply` runs on for these weights and keys or queries."""
    n, d, m = w0.shape
    sizes = {"n": n, "l": tokens.shape[1], "d": d, "m": m}
    return backend.choose(op, tokens, configs.unsupported(tokens.dtype, d, m, tokens), sizes)


def _check(weights: Sequence[Tensor], tokens: Tensor) -> None:
    n, d, m = weights[0].shape
    for name, w, shape in zip(("w0", "w1", "w2"), weights, ((n, d, m), (n, m, d), (n, d, m)), strict=True):
        if w.shape != shape:
            raise ValueError(f"{name} has shape {list(w.shape)}; beside w0 {[n, d, m]} it must be {list(shape)}")
    if tokens.ndim != 3 or tokens.shape[0] != n or tokens.shape[2] != d:
        raise ValueError(f"tokens have shape {list(tokens.shape)}; for these weights they must be [{n}, tokens, {d}]")


def ttt_update(
    weights: Sequence[Tensor], norms: Sequence[Tensor], k: Tensor, v: Tensor, lr: Tensor, steps: int = 5
) -> tuple[FastWeights, FastWeights | None]:
    """Let fast weights learn keys and values in one step; differentiable in weights, k, v and lr.

    Args:
        weights: w0, w2 [n, d, m] and w1 [n, m, d] in the order w0, w1, w2, float32.
        norms: the column norms they are given back, [n, 1, columns] each; constants.
        k, v: [n, t, d] in the type that products round operands to.
        lr: rates of w0, w1, w2 per token, [3, n, t] float32.
        steps: Newton-Schulz iterations.

    Returns:
        The new weights, and where a kernel made them copies in k's type for `ttt_apply` (no gradient flows through
        those).

    Raises:
        ValueError: a shape does not fit, or NOVELVIEW_KERNELS demands what these tensors do not allow."""
    _check(weights, k)
    if v.shape != k.shape or lr.shape != (3, *k.shape[:2]):
        raise ValueError(f"v {list(v.shape)} and lr {list(lr.shape)} do not belong to keys {list(k.shape)}")
    if chosen(UPDATE, weights[0], k) == "torch":
        new: Any = closed_form.Update.apply(*weights, *norms, k, v, lr, steps, _operands(weights, k))
        return FastWeights(*new), None
    found = _op.ttt_update(list(weights), list(norms), k, v, lr, steps)
    return FastWeights(*found[:3]), FastWeights(*(w.detach() for w in found[3:6]))


def _operands(weights: Sequence[Tensor], tokens: Tensor) -> torch.dtype | None:
    """Return what the closed form rounds operands to: the tokens' type where that is not the weights'."""
    return tokens.dtype if tokens.dtype != weights[0].dtype else None


def ttt_apply(weights: Sequence[Tensor], q: Tensor, low: Sequence[Tensor] | None = None) -> Tensor:
    """Answer queries [n, t, d]: (silu(q w0) * (q w2)) w1; differentiable in weights and q.

    Args:
        low: the weights in q's type where they exist already, as `ttt_update` returns them.

    Raises:
        ValueError: a shape does not fit, or NOVELVIEW_KERNELS demands what these tensors do not allow."""
    _check(weights, q)
    if chosen(APPLY, weights[0], q) == "torch":
        answers: Any = closed_form.Apply.apply(*weights, q, _operands(weights, q))
        return answers
    copies = [w.detach().to(q.dtype).contiguous() for w in weights] if low is None else list(low)
    return _op.ttt_apply(list(weights), copies, q)
