"""Fast-weight update and answer against float64, beside the plain formulas under autocast."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from novelview_kernels import backend
from novelview_kernels.gpu.verdicts import Verdict, compare, results
from novelview_kernels.ttt import reference, ttt_apply, ttt_update

NAMES = ("w0'", "w1'", "w2'", "o", "dw0", "dw1", "dw2", "dk", "dv", "dlr", "dq")
STEPS = 5


class Case(NamedTuple):
    """Heads, head width, hidden width, tokens learnt and answered, seed; tokens at least 4 d in low precision."""

    n: int
    d: int
    m: int
    tokens: int
    seed: int
    dtype: torch.dtype = torch.bfloat16

    def __str__(self) -> str:
        return f"{str(self.dtype)[6:]}-N{self.n}-D{self.d}-M{self.m}-T{self.tokens}-s{self.seed}"


def cases() -> Iterator[Case]:
    """Yield what the GPU suite checks: three seeds at even and ragged lengths."""
    for seed in range(3):
        yield from (Case(2, 256, 512, tokens, seed) for tokens in (4096, 4001))


def interpreted() -> list[Case]:
    """Return cases small enough for an interpreter: three seeds, even and ragged."""
    return [Case(1, 32, 64, tokens, seed) for seed in range(3) for tokens in (128, 150)]


def inputs_of(case: Case, device: str) -> list[Tensor]:
    """Return w0, w1, w2, k, v, lr, q like the layer's (specs/ttt_kernels.md section 5)."""
    generator = torch.Generator(device).manual_seed(case.seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    n, d, m, tokens, *_ = case
    w = [normal(*shape) * (2 / shape[1]) ** 0.5 for shape in ((n, d, m), (n, m, d), (n, d, m))]
    k, v, q = (torch.nn.functional.silu(normal(n, tokens, d)) for _ in range(3))
    k, q = (torch.nn.functional.normalize(x, dim=-1) for x in (k, q))
    lr = torch.nn.functional.softplus(normal(3, n, tokens) - 4.6)
    return [*w, k.to(case.dtype), v.to(case.dtype), lr, q.to(case.dtype)]


def layer(update: Callable[..., Any], apply: Callable[..., Tensor], w: list[Tensor]) -> Callable[..., list[Tensor]]:
    """Return the function of `inputs_of`'s tensors that learns and then answers; columns keep the norms of `w`."""
    norms = [reference.column_norms(x) for x in w]

    def run(*inputs: Tensor) -> list[Tensor]:
        new = update(inputs[:3], [x.to(inputs[0].dtype) for x in norms], *inputs[3:6], STEPS)
        return [*new, apply(new, inputs[6])]

    return run


def ours(*inputs: Any) -> tuple[Tensor, ...]:
    """Return the weights that `ttt_update` returns."""
    return ttt_update(*inputs)[0]


def check(case: Case, device: str, mode: str) -> Iterator[Verdict]:
    """Yield the verdicts on new weights, answers and all gradients of one case; `mode`: triton or interpret."""
    inputs = inputs_of(case, device)
    plain = layer(reference.update, reference.apply, inputs[:3])
    with backend.use(mode):
        runs = [results(layer(ours, ttt_apply, inputs[:3]), inputs, exact=False)]
    low = case.dtype != torch.float32
    with torch.autocast(device, case.dtype if low else torch.bfloat16, enabled=low):
        runs.append(results(plain, inputs, exact=False))
    runs.append(results(plain, inputs, exact=True))
    yield from compare(str(case), NAMES, runs)
