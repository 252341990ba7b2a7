"""The fast-weight formulas as plain PyTorch: what the closed form is tested against, and the reference's rounding.

Source: specs/lact.md section 3. Autograd keeps every intermediate tensor of these functions.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import silu

NORM_EPS = 1e-5


class FastWeights(NamedTuple):
    """Weights of x -> (silu(x w0) * (x w2)) w1 for n heads: w0, w2 [n d m], w1 [n m d]."""

    w0: Float[Tensor, "n d m"]
    w1: Float[Tensor, "n m d"]
    w2: Float[Tensor, "n d m"]


def column_norms(w: Float[Tensor, "n i j"]) -> Float[Tensor, "n 1 j"]:
    """Return the norm of every column, one a hidden unit (w0, w2) or output channel (w1)."""
    return w.square().sum(1, keepdim=True).sqrt()


def slope_of_silu(x: Tensor) -> Tensor:
    """Return the derivative of x * sigmoid(x)."""
    s = torch.sigmoid(x)
    return s * (1 + x * (1 - s))


def plain_apply(weights: FastWeights, q: Float[Tensor, "n l d"]) -> Float[Tensor, "n l d"]:
    """Answer the queries."""
    return (silu(q @ weights.w0) * (q @ weights.w2)) @ weights.w1


def plain_update(
    weights: FastWeights,
    norms: FastWeights,
    k: Float[Tensor, "n l d"],
    v: Float[Tensor, "n l d"],
    lr: Float[Tensor, "3 n l"],
    orthogonalise: Callable[[Tensor], Tensor],
) -> FastWeights:
    """Take one step towards answering every key with its value; columns keep the given `norms` ([n 1 columns] each).

    The step is the gradient of sum(lr * <answer to k, v>), orthogonalised: the objective is maximised.
    """
    rates = lr[..., None]
    g, u, e = k @ weights.w0, k @ weights.w2, v @ weights.w1.mT
    h, a, b = silu(g) * u, e * silu(g), e * u * slope_of_silu(g)
    steps = FastWeights((rates[0] * k).mT @ b, (rates[1] * h).mT @ v, (rates[2] * k).mT @ a)
    moved = [w + orthogonalise(step) for w, step in zip(weights, steps, strict=True)]
    return FastWeights(*(z / (column_norms(z) + NORM_EPS) * n for z, n in zip(moved, norms, strict=True)))
