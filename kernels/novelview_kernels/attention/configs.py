"""Launch configurations of the attention kernels: one for each kernel, architecture and head width.

Chosen by what compiles without spills (`python -m novelview_kernels.aot`); none has been timed on a GPU yet."""

from typing import NamedTuple

import torch
from torch import Tensor

from novelview_kernels import backend
from novelview_kernels.launch import INTERPRET

HEAD_DIMS = (32, 64, 128)
INTERPRETED_DIMS = (16,)  # besides: small models of tests
DTYPES = (torch.bfloat16, torch.float16)
NORM_ROWS = 64


class Tiles(NamedTuple):
    """Query rows, key rows, warps and pipeline stages of one kernel."""

    queries: int
    keys: int
    warps: int
    stages: int


FORWARD = {
    (90, 32): Tiles(128, 64, 8, 3),
    (90, 64): Tiles(128, 64, 8, 3),
    (90, 128): Tiles(128, 64, 8, 2),
    (80, 32): Tiles(128, 64, 4, 3),  # with 8 warps ptxas keeps to 128 registers and spills
    (80, 64): Tiles(128, 64, 8, 3),
}
DQ = {
    (90, 32): Tiles(128, 64, 8, 2),
    (90, 64): Tiles(128, 64, 8, 2),
    (90, 128): Tiles(128, 64, 8, 2),
    (80, 32): Tiles(128, 64, 8, 2),
    (80, 64): Tiles(128, 64, 8, 2),
}
DKDV = {
    (90, 32): Tiles(64, 128, 8, 2),
    (90, 64): Tiles(64, 128, 8, 2),
    (90, 128): Tiles(32, 128, 8, 2),
    (80, 32): Tiles(64, 128, 8, 2),
    (80, 64): Tiles(32, 128, 8, 2),  # 64 queries spill 8 bytes under Triton 3.6.0
}
INTERPRETED = Tiles(64, 64, 1, 1)  # the interpreter's cost grows with the number of tiles


def tiles(table: dict[tuple[int, int], Tiles], cc: int, d: int) -> Tiles:
    """Return the configuration for a compute capability; 8.6 and 8.9 use that of 8.0, anything newer that of 9.0."""
    return INTERPRETED if cc == INTERPRET else table[90 if cc >= 90 else 80, d]


def unsupported(qkv: Tensor) -> str:
    """Return why no kernel takes a packed projection, or an empty string."""
    d, dims, dtypes = qkv.shape[-1], HEAD_DIMS, DTYPES
    if backend.interpreting():
        dims, dtypes = (*INTERPRETED_DIMS, *HEAD_DIMS), (*DTYPES, torch.float32)
    if d not in dims:
        return f"head width {d} is none of {dims}"
    if qkv.dtype not in dtypes:
        return f"no kernel for {str(qkv.dtype).removeprefix('torch.')}"
    if wrong := backend.misinterpreted(qkv.dtype):
        return wrong
    cc = backend.gpu(qkv)
    if 0 < cc < 80:
        return "compute capability below 8.0"
    if cc and not ships(cc, d):
        return f"head width {d} spills registers below compute capability 9.0"
    return ""


def ships(cc: int, d: int) -> bool:
    """Whether kernels for this architecture and head width are shipped."""
    return (90 if cc >= 90 else 80, d) in FORWARD
