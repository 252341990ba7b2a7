"""The fast-weight update and answer by kernels: large plain products go to cuBLAS, everything around them is fused.

Tokens are worked through in legs, so that memory does not grow with their number (specs/ttt_kernels.md section 4)."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from novelview_kernels import launch
from novelview_kernels.ttt import configs, newton_schulz
from novelview_kernels.ttt.reference import NORM_EPS, matmul


def _modules() -> Any:
    from novelview_kernels.ttt import renorm, swiglu

    return swiglu, renorm


def product(a: Tensor, b: Tensor) -> Tensor:
    """Multiply batches of low-precision matrices into float32."""
    return matmul(a, b, a.dtype)


def legs(tokens: int, heads: int, m: int) -> Iterator[slice]:
    """Yield slices of tokens whose hidden activations stay below `configs.LEG` elements."""
    size = max(configs.UNIT, configs.LEG // (heads * m) // configs.UNIT * configs.UNIT)
    return (slice(start, min(start + size, tokens)) for start in range(0, tokens, size))


def _rates(lr: Tensor, part: slice) -> Tensor:
    piece = lr[:, :, part]
    return piece if piece.stride(-1) == 1 else piece.contiguous()


def _rows(x: Tensor) -> Tensor:
    """Return x [n, t, c] with contiguous rows, copied only when they are not."""
    return x if x.stride(2) == 1 and x.stride(1) == x.shape[2] else x.contiguous()


def _scaled_hidden(low: Sequence[Tensor], k: Tensor, v: Tensor, lr: Tensor) -> tuple[Tensor, Tensor]:
    w0, w1, w2 = low
    n, tokens, d = k.shape
    m = w0.shape[2]
    ba, h = k.new_empty(n, tokens, 2 * m), k.new_empty(n, tokens, m)
    t = configs.tile("inner", launch.target(k))
    arguments = {"k_ptr": k, "v_ptr": v, "w0_ptr": w0, "w1_ptr": w1, "w2_ptr": w2, "lr_ptr": lr}
    arguments |= {"ba_ptr": ba, "h_ptr": h, "stride_k": k.stride(0), "stride_v": v.stride(0)}
    arguments |= {"stride_lr": lr.stride(1), "stride_rate": lr.stride(0), "tokens": tokens, "d": d, "m": m}
    even = tokens % t.bm == 0 and m % t.bn == 0 and d % t.bk == 0
    constants = {"EVEN": even, "BM": t.bm, "BN": t.bn, "BK": t.bk}
    grid = (launch.blocks(m, t.bn), launch.blocks(tokens, t.bm), n)
    launch.launch(launch.kernels(_modules)[0].inner_kernel, grid, arguments, constants, t.warps, t.stages)
    return ba, h


def gradients(low: Sequence[Tensor], k: Tensor, v: Tensor, lr: Tensor) -> Tensor:
    """Return the ascent directions of w0, w1^T, w2, float32 [3, n, d, m]."""
    n, tokens, d = k.shape
    m = low[0].shape[2]
    total = torch.zeros(3, n, d, m, dtype=torch.float32, device=k.device)
    for part in legs(tokens, n, m):
        k_leg, v_leg = _rows(k[:, part]), _rows(v[:, part])
        ba, h = _scaled_hidden(low, k_leg, v_leg, _rates(lr, part))
        for slot, (left, right) in zip(total, ((k_leg, ba[..., :m]), (v_leg, h), (k_leg, ba[..., m:])), strict=True):
            slot += product(left.mT, right)
    return total


def _renorm_arguments(w: Tensor, x: Tensor, norm: Tensor) -> dict[str, Any]:
    _, height, width = w.shape
    arguments = {"w_ptr": w, "x_ptr": x, "n_ptr": norm, "height": height, "width": width, "eps": NORM_EPS}
    return arguments | {"x_batch": x.stride(0), "x_row": x.stride(1), "x_column": x.stride(2)}


def _renorm(name: str, w: Tensor, arguments: dict[str, Any]) -> None:
    t = configs.tile("renorm", launch.target(w))
    grid = (launch.blocks(w.shape[2], t.bn), w.shape[0])
    kernel = getattr(launch.kernels(_modules)[1], name)
    launch.launch(kernel, grid, arguments, {"BM": t.bm, "BN": t.bn}, t.warps, t.stages)


def _in_layout(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return [3, n, d, m] as views in the layouts of w0 [n, d, m], w1 [n, m, d], w2 [n, d, m]."""
    return x[0], x[1].mT, x[2]


def update(
    weights: Sequence[Tensor], norms: Sequence[Tensor], k: Tensor, v: Tensor, lr: Tensor, steps: int
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Return the updated weights float32, the same in k's type, and the directions [3, n, d, m]."""
    weights = [w.contiguous() for w in weights]
    g = gradients([w.to(k.dtype) for w in weights], k, v, lr)
    x = newton_schulz.forward(g.flatten(0, 1), steps, k.dtype)[0].view(g.shape)
    out, low = [torch.empty_like(w) for w in weights], [torch.empty_like(w, dtype=k.dtype) for w in weights]
    for w, step, norm, new, copy in zip(weights, _in_layout(x), norms, out, low, strict=True):
        arguments = _renorm_arguments(w, step, norm.contiguous()) | {"out_ptr": new, "low_ptr": copy}
        _renorm("renorm_kernel", w, arguments)
    return out, low, g


def update_backward(
    bars: Sequence[Tensor], weights: Sequence[Tensor], norms: Sequence[Tensor],
    k: Tensor, v: Tensor, lr: Tensor, g: Tensor, steps: int,
) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:  # fmt: skip
    """Return the gradients of the three weights, of k, v and lr."""
    weights = [w.contiguous() for w in weights]
    x, kept = newton_schulz.forward(g.flatten(0, 1), steps, k.dtype)
    totals, y, y_low = [torch.empty_like(w) for w in weights], torch.empty_like(g), torch.empty_like(g, dtype=k.dtype)
    layouts = zip(*(_in_layout(t) for t in (x.view(g.shape), y, y_low)), strict=True)
    for w, norm, bar, total, (step, turned, low) in zip(weights, norms, bars, totals, layouts, strict=True):
        arguments = _renorm_arguments(w, step, norm.contiguous()) | {"d_ptr": bar.contiguous(), "bar_ptr": total}
        _renorm("renorm_backward_kernel", w, arguments | {"turned_ptr": turned, "low_ptr": low})
    inner = newton_schulz.backward(g.flatten(0, 1), kept, y.flatten(0, 1), y_low.flatten(0, 1))
    del kept, y, y_low
    return totals, *_lesson_backward(totals, weights, inner.view(g.shape).to(k.dtype), k, v, lr)


def _lesson_backward(
    totals: list[Tensor], weights: Sequence[Tensor], inner: Tensor, k: Tensor, v: Tensor, lr: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of k, v, lr and add to those of the weights: two products in, one kernel, five out."""
    n, tokens, d = k.shape
    m = inner.shape[3]
    w0, w1, w2 = (w.to(k.dtype) for w in weights)
    for_k, for_v = torch.cat([w0, w2, inner[0], inner[2]], 2), torch.cat([w1, inner[1].mT], 1)
    k_bar, v_bar = k.new_empty(n, tokens, d), v.new_empty(n, tokens, d)
    lr_bar = torch.empty(lr.shape, dtype=torch.float32, device=lr.device)
    for part in legs(tokens, n, 4 * m):
        k_leg, v_leg = _rows(k[:, part]), _rows(v[:, part])
        gu, ev = torch.bmm(k_leg, for_k), torch.bmm(v_leg, for_v.mT)
        _inner_backward(gu, ev, _rates(lr, part), lr_bar[:, :, part])
        k_bar[:, part], v_bar[:, part] = torch.bmm(gu, for_k.mT), torch.bmm(ev, for_v)
        totals[0] += product(k_leg.mT, gu[..., :m])
        totals[1] += product(ev[..., :m].mT, v_leg)
        totals[2] += product(k_leg.mT, gu[..., m : 2 * m])
    return k_bar, v_bar, lr_bar


def _inner_backward(gu: Tensor, ev: Tensor, lr: Tensor, lr_bar: Tensor) -> None:
    n, tokens, m2 = ev.shape
    t = configs.tile("pointwise", launch.target(gu))
    arguments = {"gu_ptr": gu, "ev_ptr": ev, "lr_ptr": lr, "dlr_ptr": lr_bar, "tokens": tokens, "m": m2 // 2}
    arguments |= {"stride_lr": lr.stride(1), "stride_rate": lr.stride(0)}
    arguments |= {"stride_dlr": lr_bar.stride(1), "stride_drate": lr_bar.stride(0)}
    kernel = launch.kernels(_modules)[0].inner_backward_kernel
    constants = {"BM": t.bm, "BN": t.bn}
    launch.launch(kernel, (launch.blocks(tokens, t.bm), n), arguments, constants, t.warps, t.stages)
