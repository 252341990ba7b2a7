"""The shipped configurations of the fast-weight kernels, as launches for the compile gate."""

import functools
from collections.abc import Callable

import torch

from novelview_kernels.ttt import answer, configs, run


def _launch(dtype: torch.dtype, tokens: int, d: int, m: int) -> None:
    make = functools.partial(torch.empty, device="meta")
    weights = [make(1, d, m), make(1, m, d), make(1, d, m)]
    norms = [make(1, 1, m), make(1, 1, d), make(1, 1, m)]
    k, lr = make(1, tokens, d, dtype=dtype), make(3, 1, tokens)
    new, low, g = run.update(weights, norms, k, k, lr, 1)
    run.update_backward(new, weights, norms, k, k, lr, g, 1)
    answer.forward(low, k)
    answer.backward(k, low, k)


LAUNCHES: dict[str, Callable[[], None]] = {
    f"ttt/{str(dtype).removeprefix('torch.')}-{kind}": functools.partial(_launch, dtype, tokens, 768, 1536)
    for dtype in configs.DTYPES
    for kind, tokens in (("even", 1024), ("ragged", 1000))
}
