"""Newton-Schulz orthogonalisation with the reference's rounding (specs/lact.md section 3, dtypes; docs/quirks.md)."""

from jaxtyping import Float
from torch import Tensor

from novelview_kernels.ttt.reference import FROBENIUS_EPS, A, B, C, tall

Matrices = Float[Tensor, "n i j"]


def newton_schulz_bfloat16(g: Matrices, steps: int, autocast: bool) -> Matrices:
    """Iterate as the reference does: in bfloat16 throughout, or from a float32 norm on where autocast is on.

    Under autocast the iterate is float32 and every product is rounded to bfloat16.
    """
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
