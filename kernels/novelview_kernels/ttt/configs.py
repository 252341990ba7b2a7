"""Launch configurations of the fast-weight kernels, and what the kernels take.

Chosen by what compiles without spills (`python -m novelview_kernels.aot`); none has been timed on a GPU yet."""

from typing import NamedTuple

import torch
from torch import Tensor

from novelview_kernels import backend
from novelview_kernels.launch import INTERPRET

DTYPES = (torch.bfloat16, torch.float16)
UNIT = 128  # widths must be multiples: tiles of weights then need no masks
LEG = 1 << 27  # hidden activations (heads x tokens x width) worked on at once; bounds memory, not results' exactness


class Tile(NamedTuple):
    """Rows, columns and inner extent of a tile; warps and pipeline stages."""

    bm: int
    bn: int
    bk: int
    warps: int
    stages: int


TILES = {
    "symmetric": {90: Tile(128, 128, 64, 8, 3), 80: Tile(128, 128, 32, 8, 3)},
    "combine": {90: Tile(128, 128, 64, 8, 3), 80: Tile(128, 128, 32, 8, 3)},
    "inner": {90: Tile(128, 64, 64, 8, 2), 80: Tile(128, 64, 32, 8, 2)},
    "hidden": {90: Tile(128, 128, 64, 8, 3), 80: Tile(128, 64, 32, 8, 3)},
    "renorm": {90: Tile(64, 32, 0, 4, 1), 80: Tile(64, 32, 0, 4, 1)},
    "pointwise": {90: Tile(32, 128, 0, 8, 1), 80: Tile(32, 128, 0, 8, 1)},
}
INTERPRETED = Tile(64, 64, 64, 1, 1)


def tile(name: str, cc: int) -> Tile:
    """Return the tile of a kernel for a compute capability."""
    return INTERPRETED if cc == INTERPRET else TILES[name][90 if cc >= 90 else 80]


def unsupported(low: torch.dtype, d: int, m: int, x: Tensor) -> str:
    """Return why the kernels do not take operands of this type and these widths, or an empty string."""
    interpreting = backend.interpreting()
    if low not in (*DTYPES, *([torch.float32] if interpreting else [])):
        return f"no kernel for {str(low).removeprefix('torch.')}"
    if wrong := backend.misinterpreted(low):
        return wrong
    if d > m:
        return f"hidden width {m} is below the head's {d}"
    if not interpreting and (d % UNIT or m % UNIT):
        return f"widths {d} and {m} are not multiples of {UNIT}"
    if 0 < backend.gpu(x) < 80:
        return "compute capability below 8.0"
    return ""
