"""The fast-weight operation: rows of updates and applications (specs/lact.md section 3).

By the operators of `novelview_kernels.ttt` (in closed form; on a GPU by our kernels where `NOVELVIEW_KERNELS` and the
table of measurements say so, docs/kernels.md), or by its plain formulas with the reference's rounding.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from novelview.devices import full_precision
from novelview.models.lact.newton_schulz import newton_schulz_bfloat16
from novelview_kernels.ttt import reference, ttt_apply, ttt_update
from novelview_kernels.ttt.reference import FastWeights, column_norms


class Row(NamedTuple):
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
    rows: Sequence[Row],
    steps: int = 5,
    precision: str = "accurate",
) -> tuple[Float[Tensor, "n a d"], FastWeights]:
    """Work through `rows`; return the answers of the rows that apply, joined in their order, and the last weights.

    n: sequences times heads. k, v and the rates lr (of w0, w1, w2 in turn, positive) may end where the last update
    does. steps: Newton-Schulz iterations. precision: `accurate`, float32 results of all products also under autocast,
    which rounds operands alone; `reference`, autocast's rounding and a bfloat16 Newton-Schulz (docs/quirks.md).
    Raises ValueError when a row reaches beyond its tokens.
    """
    _check(rows, q.shape[1], k.shape[1])
    operands, entry = _operand_dtype(q.device), weights
    answers, low = [q[:, :0]], None
    for start, end, update, apply in rows:
        if update:
            lesson = k[:, start:end], v[:, start:end], lr[:, :, start:end]
            weights, low = _updated(weights, entry, lesson, steps, precision, operands)
        if apply:
            answers.append(_applied(weights, low, q[:, start:end], precision, operands))
    return torch.cat(answers[1:] or answers, dim=1), weights


def _check(rows: Sequence[Row], queries: int, keys: int) -> None:
    for row in rows:
        last = min(queries if row.apply else row.end, keys if row.update else row.end)
        if not 0 <= row.start < row.end <= last:
            raise ValueError(f"{row} of {queries} queries and {keys} keys")


def _updated(
    weights: FastWeights,
    entry: FastWeights,
    lesson: tuple[Tensor, Tensor, Tensor],
    steps: int,
    precision: str,
    operands: torch.dtype | None,
) -> tuple[FastWeights, FastWeights | None]:
    """Learn from (keys, values, rates); columns get the norms they had in `entry`, which are constants.

    Returns the weights, and where a kernel made them a copy rounded for the answers.
    """
    norms = FastWeights(*(column_norms(w.detach()) for w in entry))
    if precision == "reference":
        orthogonalise = partial(newton_schulz_bfloat16, steps=steps, autocast=operands is not None)
        return reference.update_with(weights, norms, *lesson, orthogonalise), None
    keys, values = _rounded(lesson[:2], operands)
    with full_precision(keys):
        return ttt_update(weights, norms, keys, values, lesson[2], steps)


def _applied(
    weights: FastWeights, low: FastWeights | None, q: Tensor, precision: str, operands: torch.dtype | None
) -> Tensor:
    if precision == "reference":
        return reference.apply(weights, q)
    (queries,) = _rounded([q], operands)
    with full_precision(q):
        return ttt_apply(weights, queries, low)


def _operand_dtype(device: torch.device) -> torch.dtype | None:
    """Return what autocast rounds the operands of products on `device` to, None outside autocast."""
    enabled = device.type != "meta" and torch.is_autocast_enabled(device.type)
    return torch.get_autocast_dtype(device.type) if enabled else None


def _rounded(values: Sequence[Tensor], operands: torch.dtype | None) -> list[Tensor]:
    """Round what products would round anyway before it is kept for the backward pass."""
    return [value if operands is None else value.to(operands) for value in values]
