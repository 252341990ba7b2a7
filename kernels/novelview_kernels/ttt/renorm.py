"""Kernels of the weight step: add, renormalise the columns, copy to the low type; and its backward."""

import triton
import triton.language as tl


@triton.jit
def renorm_kernel(
    w_ptr, x_ptr, n_ptr, out_ptr, low_ptr, height, width, x_batch, x_row, x_column, eps,
    BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Z = W + X; out = n * Z / (|column of Z| + eps), also in the low type.

    W, out [batch, height, width] float32; X the same by strides (w1's step is stored transposed); n [batch, width]."""
    batch = tl.program_id(1).to(tl.int64)
    columns = tl.program_id(0) * BN + tl.arange(0, BN)[None, :]
    w_ptr += batch * height * width
    x_ptr += batch * x_batch
    total = tl.zeros((BN,), tl.float32)
    for start in range(0, height, BM):
        rows = start + tl.arange(0, BM)[:, None]
        inside = (rows < height) & (columns < width)
        z = tl.load(w_ptr + rows * width + columns, mask=inside, other=0.0)
        z += tl.load(x_ptr + rows * x_row + columns * x_column, mask=inside, other=0.0)
        total += tl.sum(z * z, 0)
    n = tl.load(n_ptr + batch * width + columns, mask=columns < width, other=0.0)
    factor = n / (tl.sqrt(total)[None, :] + eps)
    for start in range(0, height, BM):
        rows = start + tl.arange(0, BM)[:, None]
        inside = (rows < height) & (columns < width)
        z = tl.load(w_ptr + rows * width + columns, mask=inside, other=0.0)
        z += tl.load(x_ptr + rows * x_row + columns * x_column, mask=inside, other=0.0)
        at = batch * height * width + rows * width + columns
        tl.store(out_ptr + at, z * factor, mask=inside)
        tl.store(low_ptr + at, (z * factor).to(low_ptr.dtype.element_ty), mask=inside)


@triton.jit
def renorm_backward_kernel(
    w_ptr, x_ptr, n_ptr, d_ptr, bar_ptr, turned_ptr, low_ptr, height, width, x_batch, x_row, x_column, eps,
    BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Cotangent of Z from that of n * Z / (r + eps): n (D / (r + eps) - Z colsum(D Z) / ((r + eps)^2 r)).

    Stored in W's layout (bar), and in X's layout as float32 (turned) and low: where Newton-Schulz's backward starts."""
    batch = tl.program_id(1).to(tl.int64)
    columns = tl.program_id(0) * BN + tl.arange(0, BN)[None, :]
    first = batch * height * width
    total = tl.zeros((BN,), tl.float32)
    along = tl.zeros((BN,), tl.float32)
    for start in range(0, height, BM):
        rows = start + tl.arange(0, BM)[:, None]
        inside = (rows < height) & (columns < width)
        at = first + rows * width + columns
        z = tl.load(w_ptr + at, mask=inside, other=0.0)
        z += tl.load(x_ptr + batch * x_batch + rows * x_row + columns * x_column, mask=inside, other=0.0)
        total += tl.sum(z * z, 0)
        along += tl.sum(z * tl.load(d_ptr + at, mask=inside, other=0.0), 0)
    n = tl.load(n_ptr + batch * width + columns, mask=columns < width, other=0.0)
    r = tl.sqrt(total)[None, :]
    # A column of zeros has along = 0; the floor keeps 0 / 0 out, as far below any norm as float32 allows.
    share = along[None, :] / ((r + eps) * (r + eps) * tl.maximum(r, 1e-20))
    for start in range(0, height, BM):
        rows = start + tl.arange(0, BM)[:, None]
        inside = (rows < height) & (columns < width)
        at = first + rows * width + columns
        turned_at = batch * x_batch + rows * x_row + columns * x_column
        z = tl.load(w_ptr + at, mask=inside, other=0.0) + tl.load(x_ptr + turned_at, mask=inside, other=0.0)
        bar = n * (tl.load(d_ptr + at, mask=inside, other=0.0) / (r + eps) - z * share)
        tl.store(bar_ptr + at, bar, mask=inside)
        tl.store(turned_ptr + turned_at, bar, mask=inside)
        tl.store(low_ptr + turned_at, bar.to(low_ptr.dtype.element_ty), mask=inside)
