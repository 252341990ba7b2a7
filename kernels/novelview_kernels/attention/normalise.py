"""Kernel of the pre-pass: q and k normalised once, before the matrix products (specs/kernels_feasibility.md section 4).

A q normalised in the prologue of the attention kernel would become a register operand of wgmma, and ptxas would
serialise every wgmma of the kernel."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["tokens", "heads"])
def normalise_kernel(
    qkv_ptr, wq_ptr, wk_ptr, hat_ptr, rstd_ptr, stride_b, stride_n, stride_s, stride_h, tokens, heads, eps,
    ROWS: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """hat = x * rstd * weight, rstd = 1 / sqrt(mean(x^2) + eps), for q (program axis 2 = 0) and k (1).

    qkv [B, N, 3, H, D]; hat [2, B, H, N, D] in qkv's type, rounded once; rstd [2, B, H, N] float32."""
    bh, which = tl.program_id(1), tl.program_id(2)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, D)
    inside = rows < tokens
    source = qkv_ptr + (bh // heads).to(tl.int64) * stride_b + which * stride_s + (bh % heads) * stride_h
    x = tl.load(source + rows[:, None] * stride_n + columns[None, :], mask=inside[:, None], other=0.0).to(tl.float32)
    rstd = 1.0 / tl.sqrt(tl.sum(x * x, 1) / D + eps)
    weight = tl.load((wk_ptr if which == 1 else wq_ptr) + columns).to(tl.float32)
    hat = x * rstd[:, None] * weight[None, :]
    first = (which * tl.num_programs(1) + bh).to(tl.int64) * tokens
    target = hat_ptr + first * D + rows[:, None] * D + columns[None, :]
    tl.store(target, hat.to(hat_ptr.dtype.element_ty), mask=inside[:, None])
    tl.store(rstd_ptr + first + rows, rstd, mask=inside)


@triton.jit
def norm_backward(g, x_ptr, rstd_ptr, weight_ptr, dx_ptr, dw_ptr, rows, inside, stride_x, stride_dx, D: tl.constexpr):
    """Turn g = dLoss/dhat (float32, [rows, D]) into dx, and store this program's share of the weight's gradient.

    With xhat = x * rstd and gw = g * weight: dx = rstd * (gw - xhat * mean(gw * xhat)), dw = sum over rows of g * xhat.
    """
    columns = tl.arange(0, D)
    x = tl.load(x_ptr + rows[:, None] * stride_x + columns[None, :], mask=inside[:, None], other=0.0).to(tl.float32)
    rstd = tl.load(rstd_ptr + rows, mask=inside, other=0.0)
    weight = tl.load(weight_ptr + columns).to(tl.float32)
    xhat = x * rstd[:, None]
    gw = g * weight[None, :]
    dx = rstd[:, None] * (gw - xhat * (tl.sum(gw * xhat, 1) / D)[:, None])
    tl.store(
        dx_ptr + rows[:, None] * stride_dx + columns[None, :], dx.to(dx_ptr.dtype.element_ty), mask=inside[:, None]
    )
    share = tl.where(inside[:, None], g * xhat, 0.0)
    tl.store(dw_ptr + columns, tl.sum(share, 0))
