"""Errors against float64 beside those of PyTorch in the same precision, and what the suite makes of them."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

RATIO, SLACK = 1.25, 1e-4  # ours may err by this many times PyTorch's error: specs/kernels_feasibility.md section 4
Function = Callable[..., Sequence[Tensor]]


class Verdict(NamedTuple):
    """One tensor of one case: relative L2 errors against float64, ours and PyTorch's, and whether ours may pass."""

    case: str
    tensor: str
    ours: float
    theirs: float
    passed: bool


def results(function: Function, inputs: Sequence[Tensor], exact: bool) -> list[Tensor]:
    """Return what a function of leaves returns, and the gradients by all leaves of a fixed random sum of it.

    `exact` runs in float64 on the same numbers: the cotangents are those that the low precision gets."""
    leaves = [(x.double() if exact else x).detach().requires_grad_() for x in inputs]
    out = function(*leaves)
    generator = torch.Generator(inputs[0].device).manual_seed(7)
    low = min((x.dtype for x in inputs), key=lambda dtype: dtype.itemsize)
    drawn = [torch.randn(x.shape, device=x.device, generator=generator).to(low) for x in out]
    bars = [bar.to(x.dtype) for bar, x in zip(drawn, out, strict=True)]
    return [*(x.detach() for x in out), *torch.autograd.grad(out, leaves, bars)]


def compare(case: str, names: Sequence[str], runs: Sequence[Sequence[Tensor]]) -> Iterator[Verdict]:
    """Yield a verdict a tensor from the results (ours, PyTorch's, float64's)."""
    for name, ours, theirs, truth in zip(names, *runs, strict=True):
        scale = truth.double().norm().clamp_min(1e-30)
        mine, plain = (float((x.double() - truth.double()).norm() / scale) for x in (ours, theirs))
        yield Verdict(case, name, mine, plain, mine <= RATIO * plain + SLACK)


def guarded(case: str, check: Callable[[], Iterator[Verdict]]) -> Iterator[Verdict]:
    """Yield a check's verdicts; one that raises has failed, and the checks after it still run."""
    try:
        yield from check()
    except Exception as problem:
        said = str(problem).strip().splitlines() or [""]
        yield Verdict(case, f"{type(problem).__name__}: {said[0][:120]}", math.nan, math.nan, False)
