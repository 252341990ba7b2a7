"""The answer of the fast weights by kernels: forward and backward (specs/ttt_kernels.md sections 2 and 4)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from novelview_kernels import launch
from novelview_kernels.ttt import configs
from novelview_kernels.ttt.run import _rows, legs, product


def _module() -> Any:
    from novelview_kernels.ttt import swiglu

    return swiglu


def _hidden(w0: Tensor, w2: Tensor, q: Tensor) -> Tensor:
    n, tokens, d = q.shape
    m = w0.shape[2]
    h = q.new_empty(n, tokens, m)
    t = configs.tile("hidden", launch.target(q))
    arguments = {"q_ptr": q, "w0_ptr": w0, "w2_ptr": w2, "h_ptr": h, "stride_q": q.stride(0)}
    even = tokens % t.bm == 0 and m % t.bn == 0 and d % t.bk == 0
    constants = {"EVEN": even, "BM": t.bm, "BN": t.bn, "BK": t.bk}
    grid = (launch.blocks(m, t.bn), launch.blocks(tokens, t.bm), n)
    arguments |= {"tokens": tokens, "d": d, "m": m}
    launch.launch(launch.kernels(_module).hidden_kernel, grid, arguments, constants, t.warps, t.stages)
    return h


def forward(low: Sequence[Tensor], q: Tensor) -> Tensor:
    """Return (silu(q w0) * (q w2)) w1 in q's type; weights in q's type, contiguous."""
    w0, w1, w2 = low
    out = q.new_empty(q.shape)
    for part in legs(q.shape[1], q.shape[0], w0.shape[2]):
        out[:, part] = torch.bmm(_hidden(w0, w2, _rows(q[:, part])), w1)
    return out


def backward(bar: Tensor, low: Sequence[Tensor], q: Tensor) -> tuple[list[Tensor], Tensor]:
    """Return the gradients of the three weights, float32, and of q."""
    w0, w1, w2 = low
    m = w0.shape[2]
    gate_up = torch.cat([w0, w2], 2)
    totals = [torch.zeros(w.shape, dtype=torch.float32, device=w.device) for w in low]
    q_bar = q.new_empty(q.shape)
    for part in legs(q.shape[1], q.shape[0], 2 * m):
        q_leg, bar_leg = q[:, part], bar[:, part]
        gu, h = torch.bmm(q_leg, gate_up), torch.bmm(bar_leg, w1.mT)
        _hidden_backward(gu, h)
        q_bar[:, part] = torch.bmm(gu, gate_up.mT)
        totals[0] += product(q_leg.mT, gu[..., :m])
        totals[1] += product(h.mT, bar_leg)
        totals[2] += product(q_leg.mT, gu[..., m:])
    return totals, q_bar


def _hidden_backward(gu: Tensor, h: Tensor) -> None:
    n, tokens, m = h.shape
    t = configs.tile("pointwise", launch.target(h))
    grid = (launch.blocks(m, t.bn), launch.blocks(n * tokens, t.bm))
    arguments = {"gu_ptr": gu, "h_ptr": h, "tokens": n * tokens, "m": m}
    kernel = launch.kernels(_module).hidden_backward_kernel
    launch.launch(kernel, grid, arguments, {"BM": t.bm, "BN": t.bn}, t.warps, t.stages)
