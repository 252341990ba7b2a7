"""Matrix products of the fast-weight update: what their operands are rounded to, and that their results are not."""

import torch
from jaxtyping import Float
from torch import Tensor


def operand_dtype(device: torch.device) -> torch.dtype | None:
    """Return what autocast rounds the operands of products on `device` to, None outside autocast."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None


def matmul(
    a: Float[Tensor, "n i j"], b: Float[Tensor, "n j k"], operands: torch.dtype | None
) -> Float[Tensor, "n i k"]:
    """Multiply batches of matrices; with `operands` they are rounded to that dtype, sums and result stay float32.

    Differs from autocast in the result, which that rounds too: the Newton-Schulz iteration blows up such roundings
    (specs/ttt_kernels.md section 5).
    """
    if operands is None:
        return a @ b
    a, b = a.to(operands), b.to(operands)
    if a.is_cuda:
        return torch.bmm(a, b, out_dtype=torch.float32)
    return a.float() @ b.float()  # products of two bfloat16 numbers are exact in float32
