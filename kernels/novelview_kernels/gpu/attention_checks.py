"""Both attention operators against float64, beside the published order of roundings in the same precision."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from novelview_kernels import backend
from novelview_kernels.attention import reference
from novelview_kernels.attention.op import attention
from novelview_kernels.gpu.verdicts import Verdict, compare, results

EPS = 1e-6
LOG2E = 1.4426950408889634
NAMES = ("o", "dq", "dk", "dv", "dwq", "dwk", "lse")


class Case(NamedTuple):
    """Type and sizes (view 0: dense attention, context = n), scales of norm weights and inputs, seed."""

    dtype: torch.dtype
    d: int
    n: int
    context: int
    view: int = 0
    weight: float = 1.0
    scale: float = 1.0
    seed: int = 0
    batch: int = 2
    heads: int = 4

    def __str__(self) -> str:
        views = f"-C{self.context}-V{self.view}" if self.view else ""
        return f"{str(self.dtype)[6:]}-D{self.d}-N{self.n}{views}-w{self.weight}-x{self.scale}-s{self.seed}"


def cases() -> Iterator[Case]:
    """Yield what the GPU suite checks: three seeds, weights 0.5 to 2, inputs 0.1 to 10, all widths and types."""
    low = torch.bfloat16
    for seed in range(3):
        for weight in (0.5, 1.0, 2.0):
            yield from (Case(low, 64, n, n, 0, weight, 1.0, seed) for n in (1280, 1001))
        yield Case(low, 64, 1280 + 3 * 500, 1280, 500, seed=seed)
    for scale in (0.1, 10.0):
        yield from (Case(low, 64, 1001, 1001, 0, 1.0, scale, seed) for seed in range(3))
    for dtype in (low, torch.float16):
        for d in (32, 64, 128):
            yield Case(dtype, d, 333, 333)
            yield Case(dtype, d, 1000, 400, 200)


def interpreted() -> list[Case]:
    """Return cases small enough for an interpreter: three seeds, all scales of weights and inputs, views, width 32."""
    low, seeds = torch.bfloat16, range(3)
    scales = [(seed, weight, scale) for seed in seeds for weight in (0.5, 1.0, 2.0) for scale in (0.1, 1.0, 10.0)]
    found = [Case(low, 64, 200, 200, 0, weight, scale, seed, batch=1, heads=2) for seed, weight, scale in scales]
    found += [Case(low, 64, 170, 80, 30, seed=seed, batch=1, heads=2) for seed in seeds]
    return found + [Case(low, 32, 130, 130, seed=seed, batch=1, heads=1) for seed in seeds]


def inputs_of(case: Case, device: str) -> list[Tensor]:
    """Return qkv [B, N, 3, H, D] and both norm weights."""
    generator = torch.Generator(device).manual_seed(case.seed)
    shape = (case.batch, case.n, 3, case.heads, case.d)
    qkv = case.scale * torch.randn(shape, generator=generator, device=device)
    drawn = (torch.randn(case.d, generator=generator, device=device) for _ in range(2))
    return [qkv.to(case.dtype), *(case.weight * (1 + 0.2 * x) for x in drawn)]


def in_reference_order(qkv: Tensor, wq: Tensor, wk: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normalise as the published code does: rounded before the weight, weights in the low precision."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    q, k = ((x.float() * reference.root_mean_square(x, EPS)[..., None]).to(x.dtype) for x in (q, k))
    return q * wq.to(q.dtype), k * wk.to(k.dtype), v


def log_sum_exp(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    """Return the base-2 log-sum-exp of the scaled scores, [B, H, N], from float32 at least."""
    kind = torch.promote_types(q.dtype, torch.float32)
    s = q.detach().to(kind) @ k.detach().to(kind).mT * q.shape[-1] ** -0.5
    return (s if mask is None else s.masked_fill(~mask, -torch.inf)).logsumexp(-1) * LOG2E


def check(case: Case, device: str, mode: str) -> Iterator[Verdict]:
    """Yield the verdicts on o, dq, dk, dv, dwq, dwk and lse of one case; `mode`: triton or interpret."""
    mask = reference.allowed(case.n, case.context, case.view, torch.device(device)) if case.view else None
    lse: list[Tensor] = []

    def ours(qkv: Tensor, wq: Tensor, wk: Tensor) -> Sequence[Tensor]:
        o, found, _, _ = attention(qkv, wq, wk, EPS, case.context, case.view)
        lse.append(found)
        return [o]

    def theirs(qkv: Tensor, wq: Tensor, wk: Tensor) -> Sequence[Tensor]:
        q, k, v = in_reference_order(qkv, wq, wk)
        lse.append(log_sum_exp(q, k, mask))
        return [scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)]

    def exact(qkv: Tensor, wq: Tensor, wk: Tensor) -> Sequence[Tensor]:
        q, k, v = reference.heads_first(qkv, wq, wk, EPS)
        lse.append(log_sum_exp(q, k, mask))
        return [scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)]

    inputs = inputs_of(case, device)
    with backend.use(mode):
        runs = [results(ours, inputs, exact=False)]
    runs += [results(theirs, inputs, exact=False), results(exact, inputs, exact=True)]
    named = [[o, *dqkv.unbind(2), dwq, dwk, found] for (o, dqkv, dwq, dwk), found in zip(runs, lse, strict=True)]
    yield from compare(str(case), NAMES, named)
