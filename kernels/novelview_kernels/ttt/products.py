"""Kernels of Newton-Schulz: symmetric products and sums of products, with the elementwise parts in their epilogues.

All matrices of a batch go in one launch; operands are of the low type, sums and the kept results float32."""

import triton
import triton.language as tl


@triton.jit
def tile(ptr, rows, columns, stride, height, width, EVEN: tl.constexpr):
    """Load ptr[rows, columns] of a [height, width] matrix; zeros outside unless EVEN says that all is inside."""
    at = ptr + rows[:, None] * stride + columns[None, :]
    if EVEN:
        return tl.load(at)
    else:
        return tl.load(at, mask=(rows[:, None] < height) & (columns[None, :] < width), other=0.0)


@triton.jit
def keep(wide_ptr, low_ptr, values, at, inside, WIDE: tl.constexpr, LOW: tl.constexpr):
    """Store values as float32 and in the low type, whichever is asked for."""
    if WIDE:
        tl.store(wide_ptr + at, values, mask=inside)
    if LOW:
        tl.store(low_ptr + at, values.to(low_ptr.dtype.element_ty), mask=inside)


@triton.jit
def symmetric_kernel(
    l_ptr, r_ptr, e_ptr, wide_ptr, low_ptr, size, inner, alpha, beta,
    ADD: tl.constexpr, PAIR: tl.constexpr, WIDE: tl.constexpr, LOW: tl.constexpr, EVEN: tl.constexpr,
    BM: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """C = alpha E + beta L R^T, or with PAIR alpha E + beta (L R^T + R L^T): symmetric, so half the tiles are computed.

    L, R [batch, size, inner] low; E, C [batch, size, size], E float32. Without PAIR, L R^T must itself be symmetric.
    Program axis 0 counts the tiles on and above the diagonal: row r of them and row T - 1 - r together hold T + 1."""
    tiles, index = tl.cdiv(size, BM), tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    r, c = index // (tiles + 1), index % (tiles + 1)
    upper = c < tiles - r
    i = tl.where(upper, r, tiles - 1 - r)
    j = i + tl.where(upper, c, c - (tiles - r))
    rows, columns, steps = i * BM + tl.arange(0, BM), j * BM + tl.arange(0, BM), tl.arange(0, BK)
    l_ptr += batch * size * inner
    r_ptr += batch * size * inner
    acc = tl.zeros((BM, BM), tl.float32)
    for start in range(0, inner, BK):
        k = start + steps
        left = tile(l_ptr, rows, k, inner, size, inner, EVEN)
        right = tile(r_ptr, columns, k, inner, size, inner, EVEN)
        acc = tl.dot(left, tl.trans(right), acc, input_precision="ieee")
        if PAIR:
            left = tile(r_ptr, rows, k, inner, size, inner, EVEN)
            right = tile(l_ptr, columns, k, inner, size, inner, EVEN)
            acc = tl.dot(left, tl.trans(right), acc, input_precision="ieee")
    acc = acc * beta
    first = batch * size * size
    inside = (rows[:, None] < size) & (columns[None, :] < size)
    if ADD:
        acc += alpha * tile(e_ptr + first, rows, columns, size, size, size, EVEN)
    keep(wide_ptr, low_ptr, acc, first + rows[:, None] * size + columns[None, :], inside, WIDE, LOW)
    if i != j:
        mirrored = first + columns[None, :] * size + rows[:, None]
        keep(wide_ptr, low_ptr, acc, mirrored, inside, WIDE, LOW)


@triton.jit
def combine_kernel(
    e_ptr, l1_ptr, r1_ptr, l2_ptr, r2_ptr, wide_ptr, low_ptr, size, width, alpha,
    PAIR: tl.constexpr, LOW: tl.constexpr, EVEN: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Y = alpha E + L1 R1, with PAIR + L2 R2, in one accumulator.

    L [batch, size, size] low; R [batch, size, width] low; E, Y [batch, size, width], E float32."""
    tiles = tl.cdiv(size, BM)
    i, j = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    batch = tl.program_id(1).to(tl.int64)
    rows, columns, steps = i * BM + tl.arange(0, BM), j * BN + tl.arange(0, BN), tl.arange(0, BK)
    square, wide = batch * size * size, batch * size * width
    acc = tl.zeros((BM, BN), tl.float32)
    for start in range(0, size, BK):
        k = start + steps
        left = tile(l1_ptr + square, rows, k, size, size, size, EVEN)
        acc = tl.dot(left, tile(r1_ptr + wide, k, columns, width, size, width, EVEN), acc, input_precision="ieee")
        if PAIR:
            left = tile(l2_ptr + square, rows, k, size, size, size, EVEN)
            acc = tl.dot(left, tile(r2_ptr + wide, k, columns, width, size, width, EVEN), acc, input_precision="ieee")
    acc += alpha * tile(e_ptr + wide, rows, columns, width, size, width, EVEN)
    inside = (rows[:, None] < size) & (columns[None, :] < width)
    keep(wide_ptr, low_ptr, acc, wide + rows[:, None] * width + columns[None, :], inside, True, LOW)
