"""Newton-Schulz forward and backward over one batch of wide matrices: three launches a step, five for its backward."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from novelview_kernels import launch
from novelview_kernels.ttt import configs
from novelview_kernels.ttt.reference import FROBENIUS_EPS, A, B, C


class Step(NamedTuple):
    """What one step leaves for the backward pass, in the low type: X, its Gram matrix, B gram + C gram^2."""

    x: Tensor
    gram: Tensor
    mixed: Tensor


def _module() -> Any:
    from novelview_kernels.ttt import products

    return products


def symmetric(
    left: Tensor, right: Tensor, alpha: float, beta: float, add: Tensor | None, pair: bool, wide: bool
) -> tuple[Tensor, Tensor]:
    """Return alpha add + beta (left right^T [+ right left^T]) as (float32 or nothing, low)."""
    batch, size, inner = left.shape
    t = configs.tile("symmetric", launch.target(left))
    low = left.new_empty(batch, size, size)
    same = left.dtype == torch.float32
    full = low if same else left.new_empty((batch, size, size) if wide else (1,), dtype=torch.float32)
    arguments = {"l_ptr": left, "r_ptr": right, "e_ptr": full if add is None else add, "wide_ptr": full, "low_ptr": low}
    arguments |= {"size": size, "inner": inner, "alpha": alpha, "beta": beta}
    even = size % t.bm == 0 and inner % t.bk == 0
    constants = {"ADD": add is not None, "PAIR": pair, "WIDE": wide and not same, "LOW": True, "EVEN": even}
    tiles = launch.blocks(size, t.bm)
    grid = (tiles * (tiles + 1) // 2, batch)
    kernel = launch.kernels(_module).symmetric_kernel
    launch.launch(kernel, grid, arguments, constants | {"BM": t.bm, "BK": t.bk}, t.warps, t.stages)
    return full, low


def combine(
    add: Tensor, alpha: float, left: Tensor, right: Tensor, second: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor]:
    """Return alpha add + left right [+ second product] as (float32, low)."""
    batch, size, width = add.shape
    t = configs.tile("combine", launch.target(left))
    out = torch.empty_like(add)
    same = left.dtype == torch.float32
    low = out if same else torch.empty_like(add, dtype=left.dtype)
    l2, r2 = second or (left, right)
    arguments = {"e_ptr": add, "l1_ptr": left, "r1_ptr": right, "l2_ptr": l2, "r2_ptr": r2}
    arguments |= {"wide_ptr": out, "low_ptr": low, "size": size, "width": width, "alpha": alpha}
    even = size % t.bm == 0 and size % t.bk == 0 and width % t.bn == 0
    constants = {"PAIR": second is not None, "LOW": not same, "EVEN": even, "BM": t.bm, "BN": t.bn, "BK": t.bk}
    grid = (launch.blocks(size, t.bm) * launch.blocks(width, t.bn), batch)
    launch.launch(launch.kernels(_module).combine_kernel, grid, arguments, constants, t.warps, t.stages)
    return out, low


def inverse_norm(g: Tensor) -> Tensor:
    """Return 1 / (Frobenius norm + eps), [n, 1, 1]."""
    return 1 / (g.square().sum((-2, -1), keepdim=True).sqrt() + FROBENIUS_EPS)


def forward(g: Tensor, steps: int, low: torch.dtype) -> tuple[Tensor, list[Step]]:
    """Return the orthogonalised float32 matrices [n, d, m] and what `backward` needs; d <= m."""
    x = g * inverse_norm(g)
    x_low = x.to(low)
    kept: list[Step] = []
    for _ in range(steps):
        gram, gram_low = symmetric(x_low, x_low, 0.0, 1.0, None, pair=False, wide=True)
        mixed = symmetric(gram_low, gram_low, B, C, gram, pair=False, wide=False)[1]
        kept.append(Step(x_low, gram_low, mixed))
        x, x_low = combine(x, A, mixed, x_low, None)
    return x, kept


def backward(g: Tensor, kept: list[Step], y: Tensor, y_low: Tensor) -> Tensor:
    """Return the gradient of sum(y * forward(g)); y_low is y in the low type."""
    for x, gram, mixed in reversed(kept):
        outer, outer_low = symmetric(y_low, x, 0.0, 1.0, None, pair=True, wide=True)
        inner = symmetric(outer_low, gram, B, C, outer, pair=True, wide=False)[1]
        y, y_low = combine(y, A, mixed, y_low, (inner, x))
    scale = inverse_norm(g)
    norm = (1 / scale - FROBENIUS_EPS).clamp_min(torch.finfo(torch.float32).tiny)
    return y * scale - g * ((y * g).sum((-2, -1), keepdim=True) * scale.square() / norm)
