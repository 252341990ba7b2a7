"""The shipped configurations of the attention kernels, as launches for the compile gate."""

import functools
from collections.abc import Callable

import torch

from novelview_kernels import launch
from novelview_kernels.attention import configs, run

HEADS = 12
DENSE, VIEWS = (1280, 1280, 0), (3072, 1024, 1024)  # tokens, context, view


def _launch(dtype: torch.dtype, d: int, sizes: tuple[int, int, int]) -> None:
    tokens, context, view = sizes
    if not configs.ships(launch.target(torch.empty(0, device="meta")), d):
        return
    qkv = torch.empty(1, tokens, 3, HEADS, d, dtype=dtype, device="meta")
    weight = torch.empty(d, device="meta")
    saved = run.forward(qkv, weight, weight, 1e-6, context, view)
    run.backward(torch.empty_like(saved.o), qkv, weight, weight, saved, context, view)


def _launches() -> dict[str, Callable[[], None]]:
    found: dict[str, Callable[[], None]] = {}
    for dtype in configs.DTYPES:
        for d in configs.HEAD_DIMS:
            name = f"{str(dtype).removeprefix('torch.')}-d{d}"
            found[f"qk_attention/{name}"] = functools.partial(_launch, dtype, d, DENSE)
            found[f"context_attention/{name}"] = functools.partial(_launch, dtype, d, VIEWS)
    return found


LAUNCHES = _launches()
