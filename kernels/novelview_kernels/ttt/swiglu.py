"""Kernels around the SwiGLU of the fast weights: its gradient, its answer, the elementwise parts of both backwards."""

import triton
import triton.language as tl

from novelview_kernels.ttt.products import tile


@triton.jit(do_not_specialize=["tokens"])
def inner_kernel(
    k_ptr, v_ptr, w0_ptr, w1_ptr, w2_ptr, lr_ptr, ba_ptr, h_ptr, stride_k, stride_v, stride_lr, stride_rate,
    tokens, d, m, EVEN: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Three products over one loop, the SwiGLU's backward and the learning rates in the epilogue.

    g = K W0, u = K W2, e = V W1^T; stores lr0 * e * u * silu'(g) and lr2 * e * silu(g) side by side in ba
    [batch, tokens, 2 m], lr1 * silu(g) * u in h [batch, tokens, m]. K, V [batch, tokens, d], W0, W2 [batch, d, m],
    W1 [batch, m, d] low; lr [3, batch, tokens] float32 (strides: batch stride_lr, rate stride_rate)."""
    batch = tl.program_id(2).to(tl.int64)
    rows = tl.program_id(1) * BM + tl.arange(0, BM)
    columns, steps = tl.program_id(0) * BN + tl.arange(0, BN), tl.arange(0, BK)
    w0_ptr += batch * d * m
    w1_ptr += batch * d * m
    w2_ptr += batch * d * m
    g = tl.zeros((BM, BN), tl.float32)
    u = tl.zeros((BM, BN), tl.float32)
    e = tl.zeros((BM, BN), tl.float32)
    for start in range(0, d, BK):
        at = start + steps
        k = tile(k_ptr + batch * stride_k, rows, at, d, tokens, d, EVEN)
        g = tl.dot(k, tile(w0_ptr, at, columns, m, d, m, EVEN), g, input_precision="ieee")
        u = tl.dot(k, tile(w2_ptr, at, columns, m, d, m, EVEN), u, input_precision="ieee")
        v = tile(v_ptr + batch * stride_v, rows, at, d, tokens, d, EVEN)
        e = tl.dot(v, tl.trans(tile(w1_ptr, columns, at, d, m, d, EVEN)), e, input_precision="ieee")
    inside = rows < tokens
    lr_ptr += batch * stride_lr + rows
    s = tl.sigmoid(g)
    act = g * s
    store = inside[:, None] & (columns[None, :] < m)
    ba_at = ba_ptr + batch * tokens * 2 * m + rows[:, None].to(tl.int64) * (2 * m) + columns[None, :]
    kind = ba_ptr.dtype.element_ty
    b = e * u * (s * (1 + g * (1 - s)))
    tl.store(ba_at, (tl.load(lr_ptr, mask=inside, other=0.0)[:, None] * b).to(kind), mask=store)
    lr2 = tl.load(lr_ptr + 2 * stride_rate, mask=inside, other=0.0)
    tl.store(ba_at + m, (lr2[:, None] * e * act).to(kind), mask=store)
    lr1 = tl.load(lr_ptr + stride_rate, mask=inside, other=0.0)
    h_at = h_ptr + batch * tokens * m + rows[:, None].to(tl.int64) * m + columns[None, :]
    tl.store(h_at, (lr1[:, None] * act * u).to(kind), mask=store)


@triton.jit(do_not_specialize=["tokens"])
def hidden_kernel(
    q_ptr, w0_ptr, w2_ptr, h_ptr, stride_q, tokens, d, m,
    EVEN: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """h = silu(Q W0) * (Q W2) [batch, tokens, m]; the two products share the tile of Q."""
    batch = tl.program_id(2).to(tl.int64)
    rows = tl.program_id(1) * BM + tl.arange(0, BM)
    columns, steps = tl.program_id(0) * BN + tl.arange(0, BN), tl.arange(0, BK)
    g = tl.zeros((BM, BN), tl.float32)
    u = tl.zeros((BM, BN), tl.float32)
    for start in range(0, d, BK):
        at = start + steps
        q = tile(q_ptr + batch * stride_q, rows, at, d, tokens, d, EVEN)
        g = tl.dot(q, tile(w0_ptr + batch * d * m, at, columns, m, d, m, EVEN), g, input_precision="ieee")
        u = tl.dot(q, tile(w2_ptr + batch * d * m, at, columns, m, d, m, EVEN), u, input_precision="ieee")
    h_at = h_ptr + batch * tokens * m + rows[:, None].to(tl.int64) * m + columns[None, :]
    store = (rows[:, None] < tokens) & (columns[None, :] < m)
    tl.store(h_at, (g * tl.sigmoid(g) * u).to(h_ptr.dtype.element_ty), mask=store)


@triton.jit(do_not_specialize=["tokens"])
def hidden_backward_kernel(gu_ptr, h_ptr, tokens, m, BM: tl.constexpr, BN: tl.constexpr):
    """In place: (g | u) [tokens, 2 m] becomes their cotangents, the hidden units' cotangent the hidden units."""
    rows = tl.program_id(1).to(tl.int64) * BM + tl.arange(0, BM)
    columns = tl.program_id(0) * BN + tl.arange(0, BN)
    inside = (rows[:, None] < tokens) & (columns[None, :] < m)
    gu_at, h_at = gu_ptr + rows[:, None] * (2 * m) + columns[None, :], h_ptr + rows[:, None] * m + columns[None, :]
    g = tl.load(gu_at, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(gu_at + m, mask=inside, other=0.0).to(tl.float32)
    bar = tl.load(h_at, mask=inside, other=0.0).to(tl.float32)
    s = tl.sigmoid(g)
    act = g * s
    kind = gu_ptr.dtype.element_ty
    tl.store(gu_at, (bar * u * (s * (1 + g * (1 - s)))).to(kind), mask=inside)
    tl.store(gu_at + m, (bar * act).to(kind), mask=inside)
    tl.store(h_at, (act * u).to(kind), mask=inside)


@triton.jit(do_not_specialize=["tokens"])
def inner_backward_kernel(
    gu_ptr, ev_ptr, lr_ptr, dlr_ptr, stride_lr, stride_rate, stride_dlr, stride_drate, tokens, m,
    BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """Pass 1 of the update's backward in place, and the gradients of the rates, summed over m in a fixed order.

    (g | u | p0 | p2) [batch, tokens, 4 m] becomes (dg | du | lr0 b | lr2 a), (e | p1) [batch, tokens, 2 m] becomes
    (de | lr1 h), with p0 = K dG0, p1 = V dG1^T, p2 = K dG2 (specs/ttt_kernels.md section 2)."""
    batch = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    inside = rows < tokens
    gu_ptr += (batch * tokens + rows[:, None]) * (4 * m)
    ev_ptr += (batch * tokens + rows[:, None]) * (2 * m)
    lr_ptr += batch * stride_lr + rows
    r0 = tl.load(lr_ptr, mask=inside, other=0.0)[:, None]
    r1 = tl.load(lr_ptr + stride_rate, mask=inside, other=0.0)[:, None]
    r2 = tl.load(lr_ptr + 2 * stride_rate, mask=inside, other=0.0)[:, None]
    d0 = tl.zeros((BM,), tl.float32)
    d1 = tl.zeros((BM,), tl.float32)
    d2 = tl.zeros((BM,), tl.float32)
    kind = gu_ptr.dtype.element_ty
    for start in range(0, m, BN):
        columns = start + tl.arange(0, BN)[None, :]
        mask = inside[:, None] & (columns < m)
        g = tl.load(gu_ptr + columns, mask=mask, other=0.0).to(tl.float32)
        u = tl.load(gu_ptr + m + columns, mask=mask, other=0.0).to(tl.float32)
        p0 = tl.load(gu_ptr + 2 * m + columns, mask=mask, other=0.0).to(tl.float32)
        p2 = tl.load(gu_ptr + 3 * m + columns, mask=mask, other=0.0).to(tl.float32)
        e = tl.load(ev_ptr + columns, mask=mask, other=0.0).to(tl.float32)
        p1 = tl.load(ev_ptr + m + columns, mask=mask, other=0.0).to(tl.float32)
        s = tl.sigmoid(g)
        act, slope, bend = g * s, s * (1 + g * (1 - s)), s * (1 - s) * (2 + g * (1 - 2 * s))
        b, h, a = e * u * slope, act * u, e * act
        d0 += tl.sum(b * p0, 1)
        d1 += tl.sum(h * p1, 1)
        d2 += tl.sum(a * p2, 1)
        x0, x1, x2 = r0 * p0, r1 * p1, r2 * p2
        tl.store(gu_ptr + columns, ((x2 * e + x1 * u) * slope + x0 * e * u * bend).to(kind), mask=mask)
        tl.store(gu_ptr + m + columns, (x0 * e * slope + x1 * act).to(kind), mask=mask)
        tl.store(gu_ptr + 2 * m + columns, (r0 * b).to(kind), mask=mask)
        tl.store(gu_ptr + 3 * m + columns, (r2 * a).to(kind), mask=mask)
        tl.store(ev_ptr + columns, (x2 * act + x0 * u * slope).to(kind), mask=mask)
        tl.store(ev_ptr + m + columns, (r1 * h).to(kind), mask=mask)
    dlr_ptr += batch * stride_dlr + rows
    tl.store(dlr_ptr, d0, mask=inside)
    tl.store(dlr_ptr + stride_drate, d1, mask=inside)
    tl.store(dlr_ptr + 2 * stride_drate, d2, mask=inside)
