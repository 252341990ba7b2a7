"""Correctness on the GPU: errors against float64 beside those of PyTorch in the same precision, and repeatability."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from novelview_kernels import backend, context_attention, qk_attention
from novelview_kernels.attention import reference
from novelview_kernels.ttt import reference as plain_ttt
from novelview_kernels.ttt import ttt_apply, ttt_update

EPS = 1e-6
RATIO, SLACK = 1.25, 1e-4  # attention: specs/kernels_feasibility.md section 4
TTT_RATIO = 1.3  # fast weights: specs/ttt_kernels.md section 5


class Verdict(NamedTuple):
    """One tensor of one case: relative L2 errors against float64, ours and PyTorch's, and whether ours may pass."""

    case: str
    tensor: str
    ours: float
    theirs: float
    passed: bool


def _gradients(function: Callable[..., Sequence[Tensor]], inputs: list[Tensor], exact: bool) -> list[Tensor]:
    leaves = [(x.double() if exact else x).detach().requires_grad_() for x in inputs]
    out = function(*leaves)
    generator = torch.Generator(inputs[0].device).manual_seed(7)
    bars = [torch.randn(x.shape, device=x.device, generator=generator).to(x.dtype) for x in out]
    if exact:  # the cotangent that the low precision really gets
        bars = [bar.to(x.dtype).double() for bar, x in zip(bars, _lowered(out, inputs[0].dtype), strict=True)]
    return [*(x.detach() for x in out), *torch.autograd.grad(out, leaves, bars)]


def _lowered(out: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    return [x.detach().to(dtype) for x in out]


def reference_order(qkv: Tensor, wq: Tensor, wk: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise as the published code does: rounded before the weight, weights in the low precision."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    q, k = ((x.float() * reference.root_mean_square(x, EPS)[..., None]).to(x.dtype) for x in (q, k))
    return q * wq.to(q.dtype), k * wk.to(k.dtype), v


def _their_attention(context: int, view: int) -> Callable[..., Sequence[Tensor]]:
    def attend(qkv: Tensor, wq: Tensor, wk: Tensor) -> Sequence[Tensor]:
        q, k, v = reference_order(qkv, wq, wk)
        mask = reference.allowed(q.shape[2], context, view, q.device) if view else None
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return [out.transpose(1, 2)]

    return attend


def _exact_attention(context: int, view: int) -> Callable[..., Sequence[Tensor]]:
    def attend(qkv: Tensor, wq: Tensor, wk: Tensor) -> Sequence[Tensor]:
        if view:
            return [reference.repeated(qkv, wq, wk, EPS, context, view)]
        return [reference.dense(qkv, wq, wk, EPS)]

    return attend


def _our_attention(context: int, view: int, mode: str) -> Callable[..., Sequence[Tensor]]:
    def attend(qkv: Tensor, wq: Tensor, wk: Tensor) -> Sequence[Tensor]:
        with backend.use(mode):
            if view:
                return [context_attention(qkv, wq, wk, EPS, context, view)]
            return [qk_attention(qkv, wq, wk, EPS)]

    return attend


def _compare(case: str, names: Sequence[str], runs: Sequence[list[Tensor]], ratio: float) -> Iterator[Verdict]:
    for name, ours, theirs, truth in zip(names, *runs, strict=True):
        scale = truth.double().norm().clamp_min(1e-30)
        mine, plain = (float((x.double() - truth.double()).norm() / scale) for x in (ours, theirs))
        yield Verdict(case, name, mine, plain, mine <= ratio * plain + SLACK)


def _attention_cases(cuda: bool) -> Iterator[tuple[torch.dtype, int, int, int, int, float, float, int]]:
    """Yield dtype, head width, tokens, context, view, weight scale, input scale, seed."""
    if not cuda:
        yield torch.float32, 32, 70, 70, 0, 1.0, 1.0, 0
        return
    for seed in range(3):
        for weight in (0.5, 1.0, 2.0):
            for n in (1280, 1001):
                yield torch.bfloat16, 64, n, n, 0, weight, 1.0, seed
    for scale in (0.1, 10.0):
        yield torch.bfloat16, 64, 1001, 1001, 0, 1.0, scale, 0
    for dtype in (torch.bfloat16, torch.float16):
        for d in (32, 64, 128):
            yield dtype, d, 333, 333, 0, 1.0, 1.0, 0
            yield dtype, d, 1000, 400, 200, 1.0, 1.0, 0
    for seed in range(3):
        yield torch.bfloat16, 64, 1280 + 3 * 500, 1280, 500, 1.0, 1.0, seed


def attention(device: str) -> Iterator[Verdict]:
    """Check both attention operators: o, dqkv, dwq, dwk; weights 0.5 to 2, inputs 0.1 to 10, ragged lengths."""
    mode = "triton" if device == "cuda" else "interpret"
    for dtype, d, n, context, view, weight, scale, seed in _attention_cases(device == "cuda"):
        torch.manual_seed(seed)
        qkv = (scale * torch.randn(2, n, 3, 4, d, device=device)).to(dtype)
        inputs = [qkv, *(weight * (1 + 0.2 * torch.randn(d, device=device)) for _ in range(2))]
        functions = (
            _our_attention(context, view, mode),
            _their_attention(context, view),
            _exact_attention(context, view),
        )
        runs = [_gradients(f, inputs, exact=index == 2) for index, f in enumerate(functions)]
        name = f"{str(dtype)[6:]} D{d} N{n}" + (f" C{context} V{view}" if view else "") + f" w{weight} x{scale} s{seed}"
        yield from _compare(name, ("o", "dqkv", "dwq", "dwk"), runs, RATIO)


def _ttt_inputs(n: int, d: int, m: int, tokens: int, dtype: torch.dtype, device: str) -> list[Tensor]:
    w = [torch.randn(s, device=device) * (2 / s[1]) ** 0.5 for s in ((n, d, m), (n, m, d), (n, d, m))]
    k, v, q = (torch.nn.functional.silu(torch.randn(n, tokens, d, device=device)) for _ in range(3))
    k, q = (torch.nn.functional.normalize(x, dim=-1) for x in (k, q))
    return [*w, k.to(dtype), v.to(dtype), torch.rand(3, n, tokens, device=device) * 0.02, q.to(dtype)]


def _layer(update: Callable[..., Any], apply: Callable[..., Tensor], norms: list[Tensor]) -> Callable[..., Any]:
    def layer(w0: Tensor, w1: Tensor, w2: Tensor, k: Tensor, v: Tensor, lr: Tensor, q: Tensor) -> list[Tensor]:
        new = update((w0, w1, w2), [x.to(w0.dtype) for x in norms], k, v, lr, 5)
        return [*new, apply(new, q)]

    return layer


def fast_weights(device: str) -> Iterator[Verdict]:
    """Check update and answer with all gradients against float64, beside the formulas under autocast."""
    cuda = device == "cuda"
    names = ("w0'", "w1'", "w2'", "o", "dw0", "dw1", "dw2", "dk", "dv", "dlr", "dq")
    for seed, tokens in ((0, 4096), (1, 4096), (2, 4001)) if cuda else ((0, 64),):
        torch.manual_seed(seed)
        n, d, m = (2, 256, 512) if cuda else (1, 32, 64)
        inputs = _ttt_inputs(n, d, m, tokens, torch.bfloat16 if cuda else torch.float32, device)
        norms = [w.square().sum(1, keepdim=True).sqrt() for w in inputs[:3]]
        plain = _layer(plain_ttt.update, plain_ttt.apply, norms)
        with backend.use("triton" if cuda else "interpret"):
            ours = _gradients(_layer(lambda *x: ttt_update(*x)[0], ttt_apply, norms), inputs, exact=False)
        with torch.autocast(device, torch.bfloat16, enabled=cuda):
            theirs = _gradients(plain, inputs, exact=False)
        runs = [ours, theirs, _gradients(plain, inputs, exact=True)]
        yield from _compare(f"ttt N{n} D{d} M{m} T{tokens} s{seed}", names, runs, TTT_RATIO)


def repeatability(device: str, times: int) -> Iterator[Verdict]:
    """Run each operator again and again on the same inputs, memory poisoned in between: bits must not change."""
    cuda = device == "cuda"
    mode, dtype = ("triton", torch.bfloat16) if cuda else ("interpret", torch.float32)
    n = 1001 if cuda else 40
    torch.manual_seed(0)
    weights = [torch.rand(64, device=device) + 0.5 for _ in range(2)]
    qkv = torch.randn(2, n, 3, 4 if cuda else 1, 64, device=device).to(dtype)
    t = _ttt_inputs(1, *((256, 512, 1001) if cuda else (32, 64, 40)), dtype, device)
    norms = [w.square().sum(1, keepdim=True).sqrt() for w in t[:3]]
    view = n // 7 if cuda else 10
    checks = {
        "qk_attention": (_our_attention(n, 0, mode), [qkv, *weights]),
        "context_attention": (_our_attention(n - 3 * view, view, mode), [qkv, *weights]),
        "ttt": (_layer(lambda *x: ttt_update(*x)[0], ttt_apply, norms), t),
    }
    for name, (function, inputs) in checks.items():
        with backend.use(mode):
            first = _gradients(function, inputs, exact=False)
            changed = 0
            for _ in range(times - 1):
                torch.empty(1 << (26 if cuda else 10), device=device).fill_(float("nan"))
                again = _gradients(function, inputs, exact=False)
                changed += not all(torch.equal(a, b) for a, b in zip(again, first, strict=True))
        yield Verdict(f"{name} x{times}", "runs that differ", float(changed), 0.0, changed == 0)
