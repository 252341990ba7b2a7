"""Repeatability: the same launch again and again on poisoned memory must give the same bits.

A missing barrier or a wait that comes too early shows here and nowhere in the interpreter, which runs programs one
at a time (specs/kernels_feasibility.md section 3c)."""

from collections.abc import Iterator

import torch
from torch import Tensor

from novelview_kernels import backend, context_attention, qk_attention
from novelview_kernels.gpu import attention_checks, ttt_checks
from novelview_kernels.gpu.verdicts import Function, Verdict, results
from novelview_kernels.ttt import ttt_apply

EPS = attention_checks.EPS


def _checks(device: str) -> dict[str, tuple[Function, list[Tensor]]]:
    """Return functions and inputs by name, of sizes that no tile divides; small ones on a CPU."""
    cuda = device == "cuda"
    kind, n = (torch.bfloat16, 1001) if cuda else (torch.float32, 40)
    view = n // 7
    case = attention_checks.Case(kind, 64, n, n, batch=2 if cuda else 1, heads=4 if cuda else 1)
    qkv = attention_checks.inputs_of(case, device)
    sizes = (1, 256, 512, 1001) if cuda else (1, 16, 32, 40)
    fast = ttt_checks.inputs_of(ttt_checks.Case(*sizes, seed=0, dtype=kind), device)
    return {
        "qk_attention": (lambda x, wq, wk: [qk_attention(x, wq, wk, EPS)], qkv),
        "context_attention": (lambda x, wq, wk: [context_attention(x, wq, wk, EPS, n - 3 * view, view)], qkv),
        "ttt": (ttt_checks.layer(ttt_checks.ours, ttt_apply, fast[:3]), fast),
    }


def repeatability(device: str, mode: str, times: int) -> Iterator[Verdict]:
    """Yield for each operator how many of `times` runs, forward and backward, differ from the first."""
    for name, (function, inputs) in _checks(device).items():
        with backend.use(mode):
            first = results(function, inputs, exact=False)
            changed = 0
            for _ in range(times - 1):
                torch.empty(1 << (26 if device == "cuda" else 10), device=device).fill_(float("nan"))
                again = results(function, inputs, exact=False)
                changed += not all(torch.equal(a, b) for a, b in zip(again, first, strict=True))
        yield Verdict(f"{name} x{times}", "runs that differ", float(changed), 0.0, changed == 0)
