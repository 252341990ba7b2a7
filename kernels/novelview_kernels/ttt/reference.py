"""Plain differentiable PyTorch of the fast-weight update and answer (formulas in README.md), in any one floating type.

What the kernels and the closed form are held to, and the published rounding. Autograd keeps every intermediate tensor.
Source: specs/lact.md section 3."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import silu

A, B, C = 3.4445, -4.7750, 2.0315  # one step of Newton-Schulz: A X + B (X X^T) X + C (X X^T)^2 X
FROBENIUS_EPS = 1e-7
NORM_EPS = 1e-5


class FastWeights(NamedTuple):
    """Weights of x -> (silu(x w0) * (x w2)) w1 for n heads: w0, w2 [n, d, m], w1 [n, m, d]."""

    w0: Tensor
    w1: Tensor
    w2: Tensor


def matmul(a: Tensor, b: Tensor, operands: torch.dtype | None) -> Tensor:
    """Multiply batches of matrices; with `operands` they are rounded to that dtype, sums and result stay float32.

    Differs from autocast in the result, which that rounds too: the Newton-Schulz iteration blows up such roundings
    (specs/ttt_kernels.md section 5)."""
    if operands is None:
        return a @ b
    a, b = a.to(operands), b.to(operands)
    if a.is_cuda:
        return torch.bmm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()  # products of two bfloat16 numbers are exact in float32


def frobenius(g: Tensor) -> Tensor:
    """Return the Frobenius norm of every matrix, [n, 1, 1]."""
    return g.square().sum((-2, -1), keepdim=True).sqrt()


def tall(g: Tensor) -> bool:
    """Whether matrices have more rows than columns: products then run on the transpose, whose Gram matrix is small."""
    return g.shape[-2] > g.shape[-1]


def step(x: Tensor, operands: torch.dtype | None = None) -> Tensor:
    """Return one Newton-Schulz iterate from the last."""
    gram = matmul(x, x.mT, operands)
    return A * x + matmul(B * gram + C * matmul(gram, gram, operands), x, operands)


def newton_schulz(g: Tensor, steps: int, operands: torch.dtype | None = None) -> Tensor:
    """Move the singular values of each matrix to about 0.7..1.2; the result does not depend on the scale of `g`.

    steps: iterations; 0 only divides by the Frobenius norm. operands: what products round their operands to, the
    iterate itself stays in the dtype of `g`."""
    if tall(g):
        return newton_schulz(g.mT, steps, operands).mT
    x = g / (frobenius(g) + FROBENIUS_EPS)
    for _ in range(steps):
        x = step(x, operands)
    return x


def column_norms(w: Tensor) -> Tensor:
    """Return the norm of every column, [n, 1, columns]: one a hidden unit (w0, w2) or output channel (w1)."""
    return w.square().sum(1, keepdim=True).sqrt()


def slope_of_silu(x: Tensor) -> Tensor:
    """Return the derivative of x * sigmoid(x)."""
    s = torch.sigmoid(x)
    return s * (1 + x * (1 - s))


def update_with(
    weights: Sequence[Tensor],
    norms: Sequence[Tensor],
    k: Tensor,
    v: Tensor,
    lr: Tensor,
    orthogonalise: Callable[[Tensor], Tensor],
) -> FastWeights:
    """Take one step towards answering keys k with values v [n, t, d]; columns keep the `norms` ([n, 1, columns] each).

    The step is the gradient of sum(lr * <answer to k, v>) by w0, w1, w2, each put through `orthogonalise`: the
    objective is maximised. lr [3, n, t]: the rates of w0, w1, w2."""
    w0, w1, w2 = weights
    rates = lr[..., None]
    g, u, e = k @ w0, k @ w2, v @ w1.mT
    h, a, b = silu(g) * u, e * silu(g), e * u * slope_of_silu(g)
    steps = (rates[0] * k).mT @ b, (rates[1] * h).mT @ v, (rates[2] * k).mT @ a
    moved = [w + orthogonalise(x) for w, x in zip(weights, steps, strict=True)]
    return FastWeights(*(z / (column_norms(z) + NORM_EPS) * n for z, n in zip(moved, norms, strict=True)))


def update(
    weights: Sequence[Tensor], norms: Sequence[Tensor], k: Tensor, v: Tensor, lr: Tensor, steps: int
) -> FastWeights:
    """`update_with` Newton-Schulz of `steps` iterations."""
    return update_with(weights, norms, k, v, lr, partial(newton_schulz, steps=steps))


def apply(weights: Sequence[Tensor], q: Tensor) -> Tensor:
    """Return (silu(q w0) * (q w2)) w1 for queries q [n, t, d]."""
    w0, w1, w2 = weights
    return (silu(q @ w0) * (q @ w2)) @ w1
