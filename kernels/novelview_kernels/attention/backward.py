"""Attention backward: two kernels that each own whole rows, so nothing is accumulated with atomics.

The norm's backward runs in the epilogues, where a program holds all channels of its rows of d(q-hat) or d(k-hat)."""

import triton
import triton.language as tl

from novelview_kernels.attention.forward import segment
from novelview_kernels.attention.normalise import norm_backward


@triton.jit
def dq_step(dq, q, do, lse, delta, k_ptr, v_ptr, start, end, stride_v, scale2,
            MASKED: tl.constexpr, BN: tl.constexpr, D: tl.constexpr):  # fmt: skip
    """Add what keys start .. start + BN contribute to dq."""
    keys = start + tl.arange(0, BN)
    columns = tl.arange(0, D)
    k_at = k_ptr + keys[:, None] * D + columns[None, :]
    v_at = v_ptr + keys[:, None] * stride_v + columns[None, :]
    if MASKED:
        k = tl.load(k_at, mask=keys[:, None] < end, other=0.0)
        v = tl.load(v_at, mask=keys[:, None] < end, other=0.0)
    else:
        k = tl.load(k_at)
        v = tl.load(v_at)
    p = tl.math.exp2(tl.dot(q, tl.trans(k), input_precision="ieee") * scale2 - lse[:, None])
    if MASKED:
        p = tl.where(keys[None, :] < end, p, 0.0)
    ds = p * (tl.dot(do, tl.trans(v), input_precision="ieee") - delta[:, None])
    return tl.dot(ds.to(k.dtype), k, dq, input_precision="ieee")


@triton.jit(do_not_specialize=["tokens", "context", "view", "heads"])
def dq_kernel(
    hat_ptr, qkv_ptr, rstd_ptr, weight_ptr, o_ptr, do_ptr, lse_ptr, delta_ptr, dqkv_ptr, dw_ptr,
    stride_b, stride_n, stride_s, stride_h, tokens, context, view, heads, scale, scale2,
    VIEWS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Gradients of the raw q and, per program, of the q weight; writes delta = rowsum(o * do) for `dkdv_kernel`.

    Layouts as in `forward_kernel`; dqkv [B, N, 3, H, D] contiguous; delta as lse; dw [programs, D] float32."""
    tile, bh = tl.program_id(0), tl.program_id(1)
    first, end, own, own_end = segment(tile, context, view, BM, VIEWS)  # pyright: ignore[reportGeneralTypeIssues]
    rows, columns = first + tl.arange(0, BM), tl.arange(0, D)
    inside = rows < end
    row0 = bh.to(tl.int64) * tokens
    q_ptr = hat_ptr + row0 * D
    k_ptr = q_ptr + tl.num_programs(1).to(tl.int64) * tokens * D
    x_ptr = qkv_ptr + (bh // heads).to(tl.int64) * stride_b + (bh % heads) * stride_h
    v_ptr = x_ptr + 2 * stride_s
    at = ((bh // heads).to(tl.int64) * tokens * heads + bh % heads) * D
    at += rows[:, None] * (heads * D) + columns[None, :]
    q = tl.load(q_ptr + rows[:, None] * D + columns[None, :], mask=inside[:, None], other=0.0)
    do = tl.load(do_ptr + at, mask=inside[:, None], other=0.0)
    o = tl.load(o_ptr + at, mask=inside[:, None], other=0.0)
    lse = tl.load(lse_ptr + row0 + rows, mask=inside, other=0.0)
    delta = tl.sum(o.to(tl.float32) * do.to(tl.float32), 1)
    tl.store(delta_ptr + row0 + rows, delta, mask=inside)
    dq = tl.zeros((BM, D), tl.float32)
    whole = context // BN * BN
    for start in range(0, whole, BN):
        dq = dq_step(dq, q, do, lse, delta, k_ptr, v_ptr, start, context, stride_n, scale2, False, BN, D)
    if VIEWS:
        tail = tl.cdiv(context - whole, BN)
        for index in range(0, tail + tl.cdiv(own_end - own, BN)):
            start = tl.where(index < tail, whole, own + (index - tail) * BN)
            stop = tl.where(index < tail, context, own_end)
            dq = dq_step(dq, q, do, lse, delta, k_ptr, v_ptr, start, stop, stride_n, scale2, True, BN, D)
    elif whole < context:
        dq = dq_step(dq, q, do, lse, delta, k_ptr, v_ptr, whole, context, stride_n, scale2, True, BN, D)
    dx_ptr = dqkv_ptr + ((bh // heads).to(tl.int64) * tokens * 3 * heads + bh % heads) * D
    program = bh * tl.num_programs(0) + tile
    norm_backward(dq * scale, x_ptr, rstd_ptr + row0, weight_ptr, dx_ptr, dw_ptr + program * D,
                  rows, inside, stride_n, 3 * heads * D, D)  # fmt: skip


@triton.jit
def dkdv_step(dk, dv, k, v, q_ptr, do_ptr, lse_ptr, delta_ptr, start, end, stride_do, scale2,
              MASKED: tl.constexpr, BM: tl.constexpr, D: tl.constexpr):  # fmt: skip
    """Add what queries start .. start + BM contribute to dk and dv.

    Queries from `end` on load as q = do = 0 and lse = delta = 0, which adds exactly nothing."""
    rows = start + tl.arange(0, BM)
    columns = tl.arange(0, D)
    q_at = q_ptr + rows[:, None] * D + columns[None, :]
    do_at = do_ptr + rows[:, None] * stride_do + columns[None, :]
    if MASKED:
        inside = rows < end
        q = tl.load(q_at, mask=inside[:, None], other=0.0)
        do = tl.load(do_at, mask=inside[:, None], other=0.0)
        lse = tl.load(lse_ptr + rows, mask=inside, other=0.0)
        delta = tl.load(delta_ptr + rows, mask=inside, other=0.0)
    else:
        q = tl.load(q_at)
        do = tl.load(do_at)
        lse = tl.load(lse_ptr + rows)
        delta = tl.load(delta_ptr + rows)
    p = tl.math.exp2(tl.dot(k, tl.trans(q), input_precision="ieee") * scale2 - lse[None, :])
    dv = tl.dot(p.to(do.dtype), do, dv, input_precision="ieee")
    ds = p * (tl.dot(v, tl.trans(do), input_precision="ieee") - delta[None, :])
    dk = tl.dot(ds.to(q.dtype), q, dk, input_precision="ieee")
    return dk, dv


@triton.jit(do_not_specialize=["tokens", "context", "view", "heads"])
def dkdv_kernel(
    hat_ptr, qkv_ptr, rstd_ptr, weight_ptr, do_ptr, lse_ptr, delta_ptr, dqkv_ptr, dw_ptr,
    stride_b, stride_n, stride_s, stride_h, tokens, context, view, heads, scale, scale2,
    VIEWS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Gradients of the raw k, of v and, per program, of the k weight; layouts as in `dq_kernel`.

    Every query of the sequence attends to the context, and a view's keys are seen by that view alone: either way the
    queries of a key tile are contiguous. Tiles of context keys come first because they take longest."""
    tile, bh = tl.program_id(0), tl.program_id(1)
    first, end, own, own_end = segment(tile, context, view, BN, VIEWS)  # pyright: ignore[reportGeneralTypeIssues]
    lo, hi = 0, tokens
    if VIEWS:
        lo = tl.where(own_end > own, own, 0)
        hi = tl.where(own_end > own, own_end, tokens)
    rows, columns = first + tl.arange(0, BN), tl.arange(0, D)
    inside = rows < end
    row0 = bh.to(tl.int64) * tokens
    group = tl.num_programs(1).to(tl.int64) * tokens
    q_ptr, k_ptr = hat_ptr + row0 * D, hat_ptr + (group + row0) * D
    x_ptr = qkv_ptr + (bh // heads).to(tl.int64) * stride_b + (bh % heads) * stride_h + stride_s
    k = tl.load(k_ptr + rows[:, None] * D + columns[None, :], mask=inside[:, None], other=0.0)
    v_at = x_ptr + stride_s + rows[:, None] * stride_n + columns[None, :]
    v = tl.load(v_at, mask=inside[:, None], other=0.0)
    do_start = do_ptr + ((bh // heads).to(tl.int64) * tokens * heads + bh % heads) * D
    dk = tl.zeros((BN, D), tl.float32)
    dv = tl.zeros((BN, D), tl.float32)
    whole = lo + (hi - lo) // BM * BM
    for start in range(lo, whole, BM):
        dk, dv = dkdv_step(dk, dv, k, v, q_ptr, do_start, lse_ptr + row0, delta_ptr + row0,
                           start, hi, heads * D, scale2, False, BM, D)  # fmt: skip
    if whole < hi:
        dk, dv = dkdv_step(dk, dv, k, v, q_ptr, do_start, lse_ptr + row0, delta_ptr + row0,
                           whole, hi, heads * D, scale2, True, BM, D)  # fmt: skip
    dx_ptr = dqkv_ptr + ((bh // heads).to(tl.int64) * tokens * 3 * heads + heads + bh % heads) * D
    dv_at = dx_ptr + heads * D + rows[:, None] * (3 * heads * D) + columns[None, :]
    tl.store(dv_at, dv.to(dqkv_ptr.dtype.element_ty), mask=inside[:, None])
    program = bh * tl.num_programs(0) + tile
    norm_backward(dk * scale, x_ptr, rstd_ptr + group + row0, weight_ptr, dx_ptr, dw_ptr + program * D,
                  rows, inside, stride_n, 3 * heads * D, D)  # fmt: skip
