"""What the fast-weight operators are measured against: the formulas under autocast, plain and compiled."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from novelview_kernels import backend
from novelview_kernels.gpu.measure import Call, Case
from novelview_kernels.qk_attention.bench import training
from novelview_kernels.ttt import newton_schulz, reference, ttt_apply, ttt_update

# heads times samples, hidden width, tokens learnt, tokens answered: specs/ttt_kernels.md section 3, then smaller
SHAPES = [
    (8, 1536, 8192, 16384),
    (1, 1536, 32768, 40960),
    (1, 3072, 385920, 418080),
    (1, 1536, 4096, 8192),
    (4, 1536, 4096, 8192),
    (1, 3072, 16384, 16384),
]
COMPILED = set(SHAPES[:2])
NS_SHAPES = [(1, 1536), (4, 1536), (8, 1536), (1, 3072)]


def _new(*inputs: Any) -> Any:
    return ttt_update(*inputs)[0]


def _layer(update: Callable[..., Any], apply: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def layer(w0: Tensor, w1: Tensor, w2: Tensor, k: Tensor, v: Tensor, lr: Tensor, q: Tensor, norms: Any) -> Tensor:
        return apply(update((w0, w1, w2), norms, k, v, lr, 5), q)

    return layer


def _update(update: Callable[..., Any]) -> Callable[..., Tensor]:
    def step(w0: Tensor, w1: Tensor, w2: Tensor, k: Tensor, v: Tensor, lr: Tensor, norms: Any) -> Tensor:
        return torch.cat([w.flatten() for w in update((w0, w1, w2), norms, k, v, lr, 5)])

    return step


def _apply(apply: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda w0, w1, w2, q: apply((w0, w1, w2), q)


def _ours(mode: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(*inputs: Any) -> Tensor:
        with backend.use(mode):
            return function(*inputs)

    return run


def _autocast(layer: Callable[..., Any], device: str) -> Callable[..., Any]:
    def run(*inputs: Any) -> Any:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            return layer(*inputs)

    return run


def _inputs(n: int, m: int, learnt: int, answered: int, device: str) -> tuple[list[Tensor], list[Tensor]]:
    d = 768 if device == "cuda" else 32
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    shapes = ((n, d, m), (n, m, d), (n, d, m))
    w = [torch.randn(s, device=device) * (2 / s[1]) ** 0.5 for s in shapes]
    norms = [x.square().sum(1, keepdim=True).sqrt() for x in w]
    k, v, q = (torch.randn(n, t, d, device=device) for t in (learnt, learnt, answered))
    k, q = (torch.nn.functional.normalize(x, dim=-1) for x in (k, q))
    lr = torch.rand(3, n, learnt, device=device) * 0.02
    leaves = [*w, k.to(dtype), v.to(dtype), lr, q.to(dtype)]
    return [x.requires_grad_() for x in leaves], norms


def _case(op: str, n: int, m: int, learnt: int, answered: int, device: str) -> Case:
    cuda = device == "cuda"
    leaves, norms = _inputs(n, m, learnt, answered, device)
    d, tokens = leaves[3].shape[2], answered if op == "ttt_apply" else learnt
    parts: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor], list[Tensor], list[Any], float]] = {
        "ttt_update": (_update(_new), _update(reference.update), leaves[:6], [norms], 12.0 * learnt),
        "ttt_apply": (_apply(ttt_apply), _apply(reference.apply), [*leaves[:3], leaves[6]], [], 6.0 * answered),
        "ttt": (
            _layer(_new, ttt_apply),
            _layer(reference.update, reference.apply),
            leaves,
            [norms],
            12.0 * learnt + 6 * answered,
        ),
    }
    ours, plain, inputs, rest, work = parts[op]
    functions = {"ours": _ours("triton" if cuda else "interpret", ours), "eager": _autocast(plain, device)}
    if cuda and (n, m, learnt, answered) in COMPILED:
        functions["compiled"] = _autocast(torch.compile(plain, dynamic=False), device)
    forward: dict[str, Call] = {name: lambda f=f: f(*inputs, *rest) for name, f in functions.items()}
    train = {name: training(f, inputs, *rest) for name, f in functions.items()}
    flops = n * (d * m * work + (0 if op == "ttt_apply" else 15 * (4.0 * d * d * m + 2.0 * d**3)))
    sizes = {"n": n, "l": tokens, "d": d, "m": m}
    return Case(op, sizes, str(leaves[3].dtype).removeprefix("torch."), flops, forward, train)


def _ns_case(n: int, m: int, device: str) -> Case:
    cuda = device == "cuda"
    d, low = (768, torch.bfloat16) if cuda else (32, torch.float32)
    g = torch.randn(3 * n, d, m, device=device)

    def ours() -> Tensor:
        with backend.use("triton" if cuda else "interpret"):
            return newton_schulz.forward(g, 5, low)[0]

    forward: dict[str, Call] = {"ours": ours, "eager": lambda: _autocast(reference.newton_schulz, device)(g, 5)}
    if cuda:
        compiled = torch.compile(reference.newton_schulz, dynamic=False)
        forward["compiled"] = lambda: _autocast(compiled, device)(g, 5)
    flops = 15.0 * n * (4.0 * d * d * m + 2.0 * d**3)
    return Case("newton_schulz", {"n": n, "d": d, "m": m}, str(low).removeprefix("torch."), flops, forward, {}, cuda)


def cases(device: str) -> Iterator[Case]:
    """Yield Newton-Schulz alone, then update, answer and both at the roofline shapes; on CPU a rehearsal."""
    for shape in NS_SHAPES if device == "cuda" else [(1, 64)]:
        yield _ns_case(*shape, device)
    for shape in SHAPES if device == "cuda" else [(1, 64, 64, 70)]:
        for op in ("ttt", "ttt_update", "ttt_apply"):
            yield _case(op, *shape, device)
