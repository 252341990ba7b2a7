"""Newton-Schulz orthogonalisation of a gradient, and its backward pass in closed form (specs/lact.md section 3)."""

import torch
from jaxtyping import Float
from torch import Tensor

from novelview.models.lact.products import matmul

A, B, C = 3.4445, -4.7750, 2.0315
EPS = 1e-7
TINY = torch.finfo(torch.float32).tiny  # keeps the gradient of a zero matrix 0 where 0/0 would be no number
Matrices = Float[Tensor, "n i j"]


def newton_schulz(g: Matrices, steps: int, operands: torch.dtype | None = None) -> Matrices:
    """Move the singular values of each matrix to about 0.7..1.2; the result does not depend on the scale of `g`.

    steps: iterations; 0 only divides by the Frobenius norm. operands: what products round their operands to, the
    iterate itself stays in the dtype of `g`. Plain differentiable PyTorch.
    """
    if _tall(g):
        return newton_schulz(g.mT, steps, operands).mT
    x = g / (_frobenius(g) + EPS)
    for _ in range(steps):
        x = _step(x, operands)
    return x


def iterates(g: Matrices, steps: int, operands: torch.dtype | None = None) -> list[Matrices]:
    """Return X_0..X_steps; products run on the transpose of tall matrices, so that the Gram matrix is the small one."""
    if _tall(g):
        return [x.mT for x in iterates(g.mT, steps, operands)]
    found = [g / (_frobenius(g) + EPS)]
    for _ in range(steps):
        found.append(_step(found[-1], operands))
    return found


def _step(x: Matrices, operands: torch.dtype | None) -> Matrices:
    gram = matmul(x, x.mT, operands)
    return A * x + matmul(B * gram + C * matmul(gram, gram, operands), x, operands)


def newton_schulz_backward(
    g: Matrices, found: list[Matrices], cotangent: Matrices, operands: torch.dtype | None = None
) -> Matrices:
    """Return the gradient of sum(cotangent * newton_schulz(g)), `found` being `iterates(g, ...)`.

    Source: specs/ttt_kernels.md section 2; the Gram matrices are formed again, nothing but X_k is needed.
    """
    if _tall(g):
        return newton_schulz_backward(g.mT, [x.mT for x in found], cotangent.mT, operands).mT
    y = cotangent
    for x in reversed(found[:-1]):
        y = _step_backward(x, y, operands)
    norm = _frobenius(g)
    along = (y * g).sum((-2, -1), keepdim=True) / ((norm + EPS) ** 2 * norm).clamp(min=TINY)
    return y / (norm + EPS) - along * g


def _step_backward(x: Matrices, y: Matrices, operands: torch.dtype | None) -> Matrices:
    gram = matmul(x, x.mT, operands)
    outer = matmul(y, x.mT, operands)
    outer = outer + outer.mT
    turned = matmul(gram, outer, operands)
    step = B * gram + C * matmul(gram, gram, operands)
    inner = B * outer + C * (turned + turned.mT)
    return A * y + matmul(step, y, operands) + matmul(inner, x, operands)


def newton_schulz_bfloat16(g: Matrices, steps: int, autocast: bool) -> Matrices:
    """Iterate as the reference does: in bfloat16 throughout, or from a float32 norm on where autocast is on.

    Under autocast the iterate is float32 and every product is rounded to bfloat16 (specs/lact.md section 3, dtypes).
    """
    if _tall(g):
        return newton_schulz_bfloat16(g.mT, steps, autocast).mT
    x = g.bfloat16()
    x = x / ((x.float() if autocast else x).norm(dim=(-2, -1), keepdim=True) + EPS)
    for _ in range(steps):
        low = x.bfloat16()
        gram = low @ low.mT
        step = B * gram + (C * gram) @ gram
        x = A * x + step @ low
    return x


def _tall(g: Matrices) -> bool:
    return g.shape[-2] > g.shape[-1]


def _frobenius(g: Matrices) -> Float[Tensor, "n 1 1"]:
    return g.square().sum((-2, -1), keepdim=True).sqrt()
