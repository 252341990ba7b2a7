"""Launch the attention kernels: pre-pass and forward, then the two backward kernels."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from novelview_kernels import launch
from novelview_kernels.attention import configs

LOG2E = 1.0 / math.log(2.0)


class Saved(NamedTuple):
    """Forward's results: output [B, N, H, D], base-2 log-sum-exp [B, H, N], q-hat and k-hat [2, B, H, N, D]; rstd."""

    o: Tensor
    lse: Tensor
    hat: Tensor
    rstd: Tensor


def _modules() -> Any:
    from novelview_kernels.attention import backward, forward, normalise

    return normalise, forward, backward


def packed(qkv: Tensor) -> Tensor:
    """Return qkv with contiguous channels, copied only when they are not."""
    return qkv if qkv.stride(-1) == 1 else qkv.contiguous()


def _common(qkv: Tensor, context: int, view: int) -> dict[str, Any]:
    stride_b, stride_n, stride_s, stride_h, _ = qkv.stride()
    strides = {"stride_b": stride_b, "stride_n": stride_n, "stride_s": stride_s, "stride_h": stride_h}
    return strides | {"tokens": qkv.shape[1], "context": context, "view": view, "heads": qkv.shape[3]}


def _tile_count(size: int, tokens: int, context: int, view: int) -> int:
    views = (tokens - context) // view if view else 0
    return launch.blocks(context, size) + views * launch.blocks(view, size)


def normalise(qkv: Tensor, wq: Tensor, wk: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return q-hat and k-hat [2, B, H, N, D] and the reciprocal root mean squares [2, B, H, N]."""
    kernel = launch.kernels(_modules)[0].normalise_kernel
    b, n, _, h, d = qkv.shape
    hat = qkv.new_empty(2, b, h, n, d)
    rstd = qkv.new_empty(2, b, h, n, dtype=torch.float32)
    arguments = {"qkv_ptr": qkv, "wq_ptr": wq, "wk_ptr": wk, "hat_ptr": hat, "rstd_ptr": rstd, "eps": float(eps)}
    arguments |= {name: value for name, value in _common(qkv, n, 0).items() if name not in ("context", "view")}
    grid = (launch.blocks(n, configs.NORM_ROWS), b * h, 2)
    launch.launch(kernel, grid, arguments, {"ROWS": configs.NORM_ROWS, "D": d}, warps=4, stages=1)
    return hat, rstd


def forward(qkv: Tensor, wq: Tensor, wk: Tensor, eps: float, context: int, view: int, bounded: bool = True) -> Saved:
    """Normalise q and k and attend; `view` = 0 is dense attention with `context` = N.

    bounded: let a bound on the logits replace their running maximum where the norm weights allow it."""
    kernel = launch.kernels(_modules)[1].forward_kernel
    qkv = packed(qkv)
    b, n, _, h, d = qkv.shape
    hat, rstd = normalise(qkv, wq, wk, eps)
    o, lse = qkv.new_empty(b, n, h, d), qkv.new_empty(b, h, n, dtype=torch.float32)
    size = configs.tiles(configs.FORWARD, launch.target(qkv), d)
    arguments = {"hat_ptr": hat, "qkv_ptr": qkv, "wq_ptr": wq, "wk_ptr": wk, "o_ptr": o, "lse_ptr": lse}
    arguments |= _common(qkv, context, view) | {"scale2": LOG2E * d**-0.5}
    # float16 cannot hold the small exponentials that a bound in place of the maximum leaves.
    flags = {"VIEWS": view > 0, "BOUNDED": bounded and qkv.dtype != torch.float16}
    constants = flags | {"BM": size.queries, "BN": size.keys, "D": d}
    grid = (_tile_count(size.queries, n, context, view), b * h)
    launch.launch(kernel, grid, arguments, constants, size.warps, size.stages)
    return Saved(o, lse, hat, rstd)


def backward(
    do: Tensor, qkv: Tensor, wq: Tensor, wk: Tensor, saved: Saved, context: int, view: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return gradients of qkv [B, N, 3, H, D] and of both norm weights [D] float32; bitwise repeatable."""
    qkv = packed(qkv)
    dqkv = torch.empty(qkv.shape, dtype=qkv.dtype, device=qkv.device)
    shared = {"hat_ptr": saved.hat, "qkv_ptr": qkv, "rstd_ptr": saved.rstd, "do_ptr": do.contiguous()}
    shared |= {"lse_ptr": saved.lse, "delta_ptr": torch.empty_like(saved.lse), "dqkv_ptr": dqkv}
    d = qkv.shape[-1]
    shared |= _common(qkv, context, view) | {"scale": d**-0.5, "scale2": LOG2E * d**-0.5}
    dwq = _launch_dq(shared, qkv, wq, saved.o, context, view)
    dwk = _launch_dkdv(shared, qkv, wk, context, view)
    return dqkv, dwq, dwk


def _launch_dq(shared: dict[str, Any], qkv: Tensor, wq: Tensor, o: Tensor, context: int, view: int) -> Tensor:
    size = configs.tiles(configs.DQ, launch.target(qkv), qkv.shape[-1])
    extra = {"weight_ptr": wq, "o_ptr": o}
    return _launch("dq_kernel", shared | extra, qkv, context, view, size, size.queries)


def _launch_dkdv(shared: dict[str, Any], qkv: Tensor, wk: Tensor, context: int, view: int) -> Tensor:
    size = configs.tiles(configs.DKDV, launch.target(qkv), qkv.shape[-1])
    return _launch("dkdv_kernel", shared | {"weight_ptr": wk}, qkv, context, view, size, size.keys)


def _launch(
    name: str, arguments: dict[str, Any], qkv: Tensor, context: int, view: int, size: configs.Tiles, rows: int
) -> Tensor:
    b, n, _, h, d = qkv.shape
    count = _tile_count(rows, n, context, view)
    shares = qkv.new_empty(b * h * count, d, dtype=torch.float32)
    kernel = getattr(launch.kernels(_modules)[2], name)
    constants = {"VIEWS": view > 0, "BM": size.queries, "BN": size.keys, "D": d}
    launch.launch(kernel, (count, b * h), arguments | {"dw_ptr": shares}, constants, size.warps, size.stages)
    return shares.sum(0)  # PyTorch adds these rows in a fixed order
