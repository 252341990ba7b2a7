"""Updates and applications of fast weights as autograd functions that keep little and differentiate in closed form.

Autograd through `reference.update` keeps some twenty tensors of tokens x hidden units and all Newton-Schulz iterates;
the functions here keep their inputs and the three weight gradients, and go over the tokens in legs, so that what is
alive at once does not grow with their number (specs/ttt_kernels.md sections 2 and 4)."""

from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import silu

from novelview_kernels.ttt.iterates import iterates, newton_schulz_backward
from novelview_kernels.ttt.reference import NORM_EPS, FastWeights, column_norms, matmul, newton_schulz

LEG = {"cpu": 1 << 20}  # hidden activations (heads x tokens x width) of one leg, by device
LONG_LEG = 1 << 25


def _legs(weights: FastWeights, *values: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Split tensors along the tokens, their axis 1, into legs of a bounded number of hidden activations."""
    heads, _, hidden = weights.w0.shape
    tokens = max(1, LEG.get(weights.w0.device.type, LONG_LEG) // (heads * hidden))
    return zip(*(value.split(tokens, dim=1) for value in values), strict=True)


class _Inner(NamedTuple):
    """What one leg's gradients and their derivatives are made of, [n l m] each (specs/ttt_kernels.md section 2)."""

    u: Tensor
    e: Tensor
    act: Tensor  # silu(g)
    slope: Tensor  # silu'(g)
    bend: Tensor  # silu''(g)


def _inner(weights: FastWeights, k: Tensor, v: Tensor, operands: torch.dtype | None) -> _Inner:
    g, u, e = matmul(k, weights.w0, operands), matmul(k, weights.w2, operands), matmul(v, weights.w1.mT, operands)
    s = torch.sigmoid(g)
    return _Inner(u, e, g * s, s * (1 + g * (1 - s)), s * (1 - s) * (2 + g * (1 - 2 * s)))


def _gradients(
    weights: FastWeights, k: Tensor, v: Tensor, rates: Tensor, operands: torch.dtype | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the ascent directions of w0, w1, w2; rates are [n t 3]."""
    g0, g1, g2 = (torch.zeros_like(w, memory_format=torch.contiguous_format) for w in weights)
    for k_leg, v_leg, rate in _legs(weights, k, v, rates):
        u, e, act, slope, _ = _inner(weights, k_leg, v_leg, operands)
        r0, r1, r2 = rate.split(1, dim=-1)
        # Rates are folded into the hidden factor: the same sums, and K is read as it is for both.
        g0 += matmul(k_leg.mT, r0 * e * u * slope, operands)
        g1 += matmul((r1 * act * u).mT, v_leg, operands)
        g2 += matmul(k_leg.mT, r2 * e * act, operands)
    return g0, g1, g2


class Update(torch.autograd.Function):
    """One update row. Keeps its inputs and the three gradients; everything of tokens x hidden units is made again."""

    @staticmethod
    def forward(
        ctx: Any, w0: Tensor, w1: Tensor, w2: Tensor, n0: Tensor, n1: Tensor, n2: Tensor,
        k: Tensor, v: Tensor, lr: Tensor, steps: int, operands: torch.dtype | None,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """Return the updated weights; the norms n0, n1, n2 are constants."""
        with torch.autocast("cpu" if w0.is_meta else w0.device.type, enabled=False):
            gradients = _stacked(_gradients(FastWeights(w0, w1, w2), k, v, lr.permute(1, 2, 0), operands))
            steps_taken = _apart(newton_schulz(gradients, steps, operands))
            moved = [w + x for w, x in zip((w0, w1, w2), steps_taken, strict=True)]
            ctx.save_for_backward(w0, w1, w2, n0, n1, n2, k, v, lr, gradients)
            ctx.steps, ctx.operands = steps, operands
            return tuple(z / (column_norms(z) + NORM_EPS) * n for z, n in zip(moved, (n0, n1, n2), strict=True))

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        """Return the gradients of weights, keys, values and rates."""
        w0, w1, w2, n0, n1, n2, k, v, lr, gradients = ctx.saved_tensors
        weights, operands = FastWeights(w0, w1, w2), ctx.operands
        with torch.autocast("cpu" if w0.is_meta else w0.device.type, enabled=False):
            found = iterates(gradients, ctx.steps, operands)
            each = zip(weights, _apart(found[-1]), (n0, n1, n2), cotangents, strict=True)
            direct = FastWeights(*(moved_backward(w, x, norm, bar) for w, x, norm, bar in each))
            inner = _apart(newton_schulz_backward(gradients, found, _stacked(direct), operands))
            k_bar, v_bar, rate_bar = _lesson_backward(weights, direct, inner, k, v, lr.permute(1, 2, 0), operands)
        return *direct, None, None, None, k_bar.to(k.dtype), v_bar.to(v.dtype), rate_bar.permute(2, 0, 1), None, None


def _stacked(weights: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Join the matrices of w0, w1 and w2 in the orientation of w0, [3n d m], to work on all at once."""
    return torch.cat([weights[0], weights[1].mT, weights[2]])


def _apart(stacked: Tensor) -> FastWeights:
    first, second, third = stacked.chunk(3)
    return FastWeights(first, second.mT, third)


def moved_backward(w: Tensor, x: Tensor, norm: Tensor, cotangent: Tensor) -> Tensor:
    """Return the cotangent of w + x from that of its columns rescaled to `norm`."""
    z = w + x
    length = column_norms(z)
    along = (cotangent * z).sum(1, keepdim=True) / ((length + NORM_EPS) ** 2 * length.clamp(min=NORM_EPS**4))
    return norm * (cotangent / (length + NORM_EPS) - along * z)


def _lesson_backward(
    weights: FastWeights,
    direct: FastWeights,
    inner: FastWeights,
    k: Tensor,
    v: Tensor,
    rates: Tensor,
    operands: torch.dtype | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the cotangents of keys, values, rates from those of the three gradients; add the weights' to `direct`."""
    parts = []
    for k_leg, v_leg, rate in _legs(weights, k, v, rates):
        *tokens, d0, d1, d2 = _leg_backward(weights, inner, k_leg, v_leg, rate, operands)
        for total, part in zip(direct, (d0, d1, d2), strict=True):
            total += part
        parts.append(tokens)
    k_bar, v_bar, rate_bar = (torch.cat(legs, dim=1) for legs in zip(*parts, strict=True))
    return k_bar, v_bar, rate_bar


def _leg_backward(
    weights: FastWeights, inner: FastWeights, k: Tensor, v: Tensor, rate: Tensor, operands: torch.dtype | None
) -> list[Tensor]:
    """Passes 1 to 3 of specs/ttt_kernels.md section 2: cotangents of k, v, the rates, and shares of w0, w1, w2's."""
    mm = partial(matmul, operands=operands)
    (u, e, act, slope, bend), (r0, r1, r2) = _inner(weights, k, v, operands), rate.split(1, dim=-1)
    p0, p1, p2 = mm(k, inner.w0), mm(v, inner.w1.mT), mm(k, inner.w2)
    b, h, a = e * u * slope, act * u, e * act
    rate_bar = torch.cat([(x * p).sum(-1, keepdim=True) for x, p in ((b, p0), (h, p1), (a, p2))], dim=-1)
    x0, x1, x2 = r0 * p0, r1 * p1, r2 * p2
    e_bar = x2 * act + x0 * u * slope
    u_bar = x0 * e * slope + x1 * act
    g_bar = (x2 * e + x1 * u) * slope + x0 * e * u * bend
    k_bar = mm(r0 * b, inner.w0.mT) + mm(r2 * a, inner.w2.mT) + mm(g_bar, weights.w0.mT) + mm(u_bar, weights.w2.mT)
    v_bar = mm(r1 * h, inner.w1) + mm(e_bar, weights.w1)
    return [k_bar, v_bar, rate_bar, mm(k.mT, g_bar), mm(e_bar.mT, v), mm(k.mT, u_bar)]


class Apply(torch.autograd.Function):
    """One application row. Keeps queries and weights; the hidden activations are made again."""

    @staticmethod
    def forward(ctx: Any, w0: Tensor, w1: Tensor, w2: Tensor, q: Tensor, operands: torch.dtype | None) -> Tensor:
        """Return the answers."""
        weights, mm = FastWeights(w0, w1, w2), partial(matmul, operands=operands)
        ctx.save_for_backward(w0, w1, w2, q)
        ctx.operands = operands
        with torch.autocast("cpu" if q.is_meta else q.device.type, enabled=False):
            hidden = (silu(mm(leg, w0)) * mm(leg, w2) for (leg,) in _legs(weights, q))
            return torch.cat([mm(h, w1) for h in hidden], dim=1)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Any, ...]:
        """Return the gradients of weights and queries."""
        w0, w1, w2, q = ctx.saved_tensors
        weights = FastWeights(w0, w1, w2)
        totals = [torch.zeros_like(w, memory_format=torch.contiguous_format) for w in weights]
        parts = []
        with torch.autocast("cpu" if q.is_meta else q.device.type, enabled=False):
            for q_leg, bar in _legs(weights, q, cotangents[0]):
                q_bar, *shares = _answers_backward(weights, q_leg, bar, ctx.operands)
                for total, share in zip(totals, shares, strict=True):
                    total += share
                parts.append(q_bar)
        return *totals, torch.cat(parts, dim=1).to(q.dtype), None


def _answers_backward(weights: FastWeights, q: Tensor, cotangent: Tensor, operands: torch.dtype | None) -> list[Tensor]:
    mm = partial(matmul, operands=operands)
    g, u, h_bar = mm(q, weights.w0), mm(q, weights.w2), mm(cotangent, weights.w1.mT)
    s = torch.sigmoid(g)
    act = g * s
    g_bar, u_bar = h_bar * u * s * (1 + g * (1 - s)), h_bar * act
    q_bar = mm(g_bar, weights.w0.mT) + mm(u_bar, weights.w2.mT)
    return [q_bar, mm(q.mT, g_bar), mm((act * u).mT, cotangent), mm(q.mT, u_bar)]
