"""Newton-Schulz in plain PyTorch with its backward pass in closed form (specs/ttt_kernels.md section 2)."""

import torch
from torch import Tensor

from novelview_kernels.ttt.reference import FROBENIUS_EPS, A, B, C, frobenius, matmul, step, tall

TINY = torch.finfo(torch.float32).tiny  # keeps the gradient of a zero matrix 0 where 0/0 would be no number


def iterates(g: Tensor, steps: int, operands: torch.dtype | None = None) -> list[Tensor]:
    """Return X_0..X_steps of matrices [n, i, j]; operands as in `reference.newton_schulz`."""
    if tall(g):
        return [x.mT for x in iterates(g.mT, steps, operands)]
    found = [g / (frobenius(g) + FROBENIUS_EPS)]
    for _ in range(steps):
        found.append(step(found[-1], operands))
    return found


def newton_schulz_backward(
    g: Tensor, found: list[Tensor], cotangent: Tensor, operands: torch.dtype | None = None
) -> Tensor:
    """Return the gradient of sum(cotangent * newton_schulz(g)), `found` being `iterates(g, ...)`.

    The Gram matrices are formed again: nothing but X_k is needed."""
    if tall(g):
        return newton_schulz_backward(g.mT, [x.mT for x in found], cotangent.mT, operands).mT
    y = cotangent
    for x in reversed(found[:-1]):
        y = _step_backward(x, y, operands)
    norm = frobenius(g)
    along = (y * g).sum((-2, -1), keepdim=True) / ((norm + FROBENIUS_EPS) ** 2 * norm).clamp(min=TINY)
    return y / (norm + FROBENIUS_EPS) - along * g


def _step_backward(x: Tensor, y: Tensor, operands: torch.dtype | None) -> Tensor:
    gram = matmul(x, x.mT, operands)
    outer = matmul(y, x.mT, operands)
    outer = outer + outer.mT
    turned = matmul(gram, outer, operands)
    step_of_gram = B * gram + C * matmul(gram, gram, operands)
    inner = B * outer + C * (turned + turned.mT)
    return A * y + matmul(step_of_gram, y, operands) + matmul(inner, x, operands)
