"""Plain differentiable PyTorch of the fast-weight update and answer (formulas in README.md), in any floating type."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import silu

A, B, C = 3.4445, -4.7750, 2.0315  # one step of Newton-Schulz: A X + B (X X^T) X + C (X X^T)^2 X
FROBENIUS_EPS = 1e-7
NORM_EPS = 1e-5


def newton_schulz(g: Tensor, steps: int) -> Tensor:
    """Move the singular values of each wide matrix [n, d, m], d <= m, to about 0.7 .. 1.2."""
    x = g / (g.square().sum((-2, -1), keepdim=True).sqrt() + FROBENIUS_EPS)
    for _ in range(steps):
        gram = x @ x.mT
        x = A * x + (B * gram + C * gram @ gram) @ x
    return x


def gradients(w0: Tensor, w1: Tensor, w2: Tensor, k: Tensor, v: Tensor, lr: Tensor) -> Tensor:
    """Return the ascent directions of w0, w1^T and w2 as [3, n, d, m]; rates are folded into the hidden factor."""
    g, u, e = k @ w0, k @ w2, v @ w1.mT
    s = torch.sigmoid(g)
    hidden = (e * u * (s * (1 + g * (1 - s))), g * s * u, e * g * s)
    scaled = [rate[..., None].to(x.dtype) * x for rate, x in zip(lr, hidden, strict=True)]
    return torch.stack([k.mT @ scaled[0], v.mT @ scaled[1], k.mT @ scaled[2]])


def update(weights: Sequence[Tensor], norms: Sequence[Tensor], k: Tensor, v: Tensor, lr: Tensor, steps: int):
    """Return w0, w1, w2 after one update: add the orthogonalised directions, give every column its norm back."""
    w0, w1, w2 = (w.to(k.dtype) for w in weights)
    g = gradients(w0, w1, w2, k, v, lr).to(weights[0].dtype)
    x0, x1, x2 = newton_schulz(g.flatten(0, 1), steps).unflatten(0, g.shape[:2])
    moved = [w + x for w, x in zip(weights, (x0, x1.mT, x2), strict=True)]
    return tuple(n * z / (z.square().sum(1, keepdim=True).sqrt() + NORM_EPS) for z, n in zip(moved, norms, strict=True))


def apply(weights: Sequence[Tensor], q: Tensor) -> Tensor:
    """Return (silu(q w0) * (q w2)) w1."""
    w0, w1, w2 = (w.to(q.dtype) for w in weights)
    return (silu(q @ w0) * (q @ w2)) @ w1
