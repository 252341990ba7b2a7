"""Attention forward over normalised q and k, dense or structured (context and views).

Base-2 exponentials throughout. Where the norm weights bound the logits, the running maximum is replaced by that bound:
softmax is invariant to the constant, and the inner loop loses the maximum and the rescaling of the accumulator."""

import triton
import triton.language as tl

SAFE_SPAN = tl.constexpr(100.0)  # p >= 2^-100 stays a normal number in float32 and bfloat16


@triton.jit
def step(acc, total, top, q, k_ptr, v_ptr, start, end, stride_v, scale2,
         MASKED: tl.constexpr, BOUNDED: tl.constexpr, BN: tl.constexpr, D: tl.constexpr):  # fmt: skip
    """Attend to keys start .. start + BN; keys from `end` on do not exist."""
    keys = start + tl.arange(0, BN)
    columns = tl.arange(0, D)
    k_at = k_ptr + keys[None, :] * D + columns[:, None]
    v_at = v_ptr + keys[:, None] * stride_v + columns[None, :]
    if MASKED:
        k = tl.load(k_at, mask=keys[None, :] < end, other=0.0)
        v = tl.load(v_at, mask=keys[:, None] < end, other=0.0)
    else:
        k = tl.load(k_at)
        v = tl.load(v_at)
    s = tl.dot(q, k, input_precision="ieee")
    if BOUNDED:
        p = tl.math.exp2(s * scale2 - top[:, None])
        if MASKED:
            p = tl.where(keys[None, :] < end, p, 0.0)
    else:
        if MASKED:
            s = tl.where(keys[None, :] < end, s, float("-inf"))
        higher = tl.maximum(top, tl.max(s, 1) * scale2)
        p = tl.math.exp2(s * scale2 - higher[:, None])
        shrink = tl.math.exp2(top - higher)
        acc, total, top = acc * shrink[:, None], total * shrink, higher
    total += tl.sum(p, 1)
    acc = tl.dot(p.to(v.dtype), v, acc, input_precision="ieee")
    return acc, total, top


@triton.jit
def over_keys(bound, q_ptr, rows, inside, k_ptr, v_ptr, end, own, own_end, stride_v, scale2,
              VIEWS: tl.constexpr, BOUNDED: tl.constexpr,
              BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr):  # fmt: skip
    """Attend to keys 0 .. end and, with VIEWS, own .. own_end; return the sum of v, of weights, and their base.

    Whole tiles run without masks. One masked loop over all tiles would also have ptxas serialise the bounded wgmma
    (C7515, Triton 3.7.1)."""
    q = tl.load(q_ptr + rows[:, None] * D + tl.arange(0, D)[None, :], mask=inside[:, None], other=0.0)
    acc = tl.zeros((BM, D), tl.float32)
    total = tl.zeros((BM,), tl.float32)
    top = tl.zeros((BM,), tl.float32) + bound
    whole = end // BN * BN
    for start in range(0, whole, BN):
        acc, total, top = step(acc, total, top, q, k_ptr, v_ptr, start, end, stride_v, scale2, False, BOUNDED, BN, D)
    if VIEWS:
        tail = tl.cdiv(end - whole, BN)
        for index in range(0, tail + tl.cdiv(own_end - own, BN)):
            start = tl.where(index < tail, whole, own + (index - tail) * BN)
            stop = tl.where(index < tail, end, own_end)
            acc, total, top = step(
                acc, total, top, q, k_ptr, v_ptr, start, stop, stride_v, scale2, True, BOUNDED, BN, D
            )
    elif whole < end:
        acc, total, top = step(acc, total, top, q, k_ptr, v_ptr, whole, end, stride_v, scale2, True, BOUNDED, BN, D)
    return acc, total, top


@triton.jit
def segment(tile, context, view, SIZE: tl.constexpr, VIEWS: tl.constexpr):
    """Return the first row of a tile, the end of its segment, and the bounds of its own view (empty for context)."""
    first, end, own, own_end = tile * SIZE, context, context, context
    if VIEWS:
        shared = tl.cdiv(context, SIZE)
        if tile >= shared:
            each = tl.cdiv(view, SIZE)
            own = context + (tile - shared) // each * view
            own_end = own + view
            first, end = own + (tile - shared) % each * SIZE, own_end
    return first, end, own, own_end


@triton.jit(do_not_specialize=["tokens", "context", "view", "heads"])
def forward_kernel(
    hat_ptr, qkv_ptr, wq_ptr, wk_ptr, o_ptr, lse_ptr, stride_b, stride_n, stride_s, stride_h,
    tokens, context, view, heads, scale2,
    VIEWS: tl.constexpr, BOUNDED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """o = softmax2(scale2 * q k^T) v and its base-2 log-sum-exp.

    hat [2, B, H, N, D]; qkv [B, N, 3, H, D], of which v is read in place; o [B, N, H, D]; lse [B, H, N] float32.
    scale2 = log2(e) / sqrt(D). Dense: context = N. VIEWS: tokens are context, then views of `view` tokens each; a view
    attends to the context and itself, the context to itself."""
    bh = tl.program_id(1)
    first, end, own, own_end = segment(tl.program_id(0), context, view, BM, VIEWS)  # pyright: ignore[reportGeneralTypeIssues]
    rows, columns = first + tl.arange(0, BM), tl.arange(0, D)
    inside = rows < end
    q_ptr = hat_ptr + bh.to(tl.int64) * tokens * D
    k_ptr = q_ptr + tl.num_programs(1).to(tl.int64) * tokens * D
    v_ptr = qkv_ptr + (bh // heads).to(tl.int64) * stride_b + 2 * stride_s + (bh % heads) * stride_h
    if BOUNDED:
        largest_q = tl.max(tl.abs(tl.load(wq_ptr + columns).to(tl.float32)), 0)
        largest_k = tl.max(tl.abs(tl.load(wk_ptr + columns).to(tl.float32)), 0)
        bound = scale2 * D * largest_q * largest_k
        if 2 * bound <= SAFE_SPAN:
            acc, total, top = over_keys(bound, q_ptr, rows, inside, k_ptr, v_ptr, context, own, own_end, stride_n,
                                        scale2, VIEWS, True, BM, BN, D)  # fmt: skip
        else:
            acc, total, top = over_keys(-float("inf"), q_ptr, rows, inside, k_ptr, v_ptr, context, own, own_end,
                                        stride_n, scale2, VIEWS, False, BM, BN, D)  # fmt: skip
    else:
        acc, total, top = over_keys(-float("inf"), q_ptr, rows, inside, k_ptr, v_ptr, context, own, own_end,
                                    stride_n, scale2, VIEWS, False, BM, BN, D)  # fmt: skip
    o_at = o_ptr + ((bh // heads).to(tl.int64) * tokens * heads + bh % heads) * D + rows[:, None] * (heads * D)
    tl.store(o_at + columns[None, :], (acc / total[:, None]).to(o_ptr.dtype.element_ty), mask=inside[:, None])
    tl.store(lse_ptr + bh.to(tl.int64) * tokens + rows, top + tl.math.log2(total), mask=inside)
