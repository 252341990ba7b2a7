"""The fast-weight operation: spans of tokens to learn from and to answer (specs/lact.md section 3).

By the operators of `novelview_kernels.ttt` (docs/kernels.md), or by its plain formulas with the reference's rounding.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from novelview.devices import full_precision
from novelview_kernels.ttt import reference, ttt_apply, ttt_update
from novelview_kernels.ttt.reference import FROBENIUS_EPS, A, B, C, FastWeights, column_norms, tall


class Span(NamedTuple):
    """Tokens start..end: whether the weights learn from them, and then whether they are answered."""

    start: int
    end: int
    update: bool
    apply: bool


def ttt_update_apply(
    weights: FastWeights,
    q: Float[Tensor, "n l d"],
    k: Float[Tensor, "n t d"],
    v: Float[Tensor, "n t d"],
    lr: Float[Tensor, "3 n t"],
    spans: Sequence[Span],
    steps: int = 5,
    precision: str = "accurate",
) -> tuple[Float[Tensor, "n a d"], FastWeights]:
    """Work through `spans`; return the answers of the spans that apply, joined in their order, and the last weights.

    n: sequences times heads. k, v and the rates lr (of w0, w1, w2 in turn, positive) may end where the last update
    does. steps: Newton-Schulz iterations. precision: `accurate`, float32 results of all products also under autocast,
    which rounds operands alone; `reference`, autocast's rounding and a bfloat16 Newton-Schulz (docs/quirks.md).
    Raises ValueError when a span reaches beyond its tokens."""
    queries, keys = q.shape[1], k.shape[1]
    for span in spans:
        last = min(queries if span.apply else span.end, keys if span.update else span.end)
        if not 0 <= span.start < span.end <= last:
            raise ValueError(f"{span} of {queries} queries and {keys} keys")
    autocast = not q.is_meta and torch.is_autocast_enabled(q.device.type)
    operands = torch.get_autocast_dtype(q.device.type) if autocast else None
    norms = FastWeights(*(column_norms(w.detach()) for w in weights))  # at entry: constants for all updates
    answers, low = [q[:, :0]], None
    for start, end, update, apply in spans:
        if update:
            learnt = k[:, start:end], v[:, start:end], lr[:, :, start:end]
            weights, low = _updated(weights, norms, learnt, steps, precision, operands)
        if apply and precision == "reference":
            answers.append(reference.apply(weights, q[:, start:end]))
        elif apply:
            queries = _rounded(q[:, start:end], operands)
            with full_precision(q):
                answers.append(ttt_apply(weights, queries, low))
    return torch.cat(answers[1:] or answers, dim=1), weights


def _updated(
    weights: FastWeights,
    norms: FastWeights,
    learnt: tuple[Tensor, Tensor, Tensor],
    steps: int,
    precision: str,
    operands: torch.dtype | None,
) -> tuple[FastWeights, FastWeights | None]:
    """Learn from (keys, values, rates); return the weights, and where a kernel made them a copy for the answers."""
    if precision == "reference":
        orthogonalise = partial(newton_schulz_bfloat16, steps=steps, autocast=operands is not None)
        return reference.update_with(weights, norms, *learnt, orthogonalise), None
    keys, values = (_rounded(part, operands) for part in learnt[:2])
    with full_precision(keys):
        return ttt_update(weights, norms, keys, values, learnt[2], steps)


def _rounded(value: Tensor, operands: torch.dtype | None) -> Tensor:
    """Round what products would round anyway before it is kept for the backward pass."""
    return value if operands is None else value.to(operands)


def newton_schulz_bfloat16(g: Float[Tensor, "n i j"], steps: int, autocast: bool) -> Float[Tensor, "n i j"]:
    """Iterate as the reference does: in bfloat16 throughout, or from a float32 norm on where autocast is on.

    Under autocast the iterate is float32 and every product is rounded to bfloat16."""
    if tall(g):
        return newton_schulz_bfloat16(g.mT, steps, autocast).mT
    x = g.bfloat16()
    x = x / ((x.float() if autocast else x).norm(dim=(-2, -1), keepdim=True) + FROBENIUS_EPS)
    for _ in range(steps):
        low = x.bfloat16()
        gram = low @ low.mT
        step = B * gram + (C * gram) @ gram
        x = A * x + step @ low
    return x
