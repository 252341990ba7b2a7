"""What the fast-weight operators are measured against: the formulas under autocast, plain and compiled."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from novelview_kernels import backend
from novelview_kernels.gpu.measure import Call, Case
from novelview_kernels.qk_attention.bench import training
from novelview_kernels.ttt import newton_schulz, reference, ttt_apply, ttt_update

# Heads times samples, hidden width, tokens learnt, tokens answered.
ROOFLINE = [
    (8, 1536, 8192, 16384),
    (1, 1536, 32768, 40960),
    (1, 3072, 385920, 418080),
]  # specs/ttt_kernels.md section 3
GRID = [  # specs/kernels_feasibility.md section 8
    (n, m, tokens, tokens) for tokens in (4096, 16384, 1024) for m in (1536, 3072) for n in (1, 4, 8)
]
NS_SHAPES = [(1, 1536), (1, 3072), (4, 1536), (8, 1536), (4, 3072), (8, 3072)]
NS_COMPILED = NS_SHAPES[:3]
LAYER, PARTS = ("ttt",), ("ttt_update", "ttt_apply")
WIDTH, STEPS = 768, 5


def _new(*inputs: Any) -> Any:
    return ttt_update(*inputs)[0]


def _layer(update: Callable[..., Any], apply: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def layer(w0: Tensor, w1: Tensor, w2: Tensor, k: Tensor, v: Tensor, lr: Tensor, q: Tensor, norms: Any) -> Tensor:
        return apply(update((w0, w1, w2), norms, k, v, lr, STEPS), q)

    return layer


def _update(update: Callable[..., Any]) -> Callable[..., Tensor]:
    def step(w0: Tensor, w1: Tensor, w2: Tensor, k: Tensor, v: Tensor, lr: Tensor, norms: Any) -> Tensor:
        return torch.cat([w.flatten() for w in update((w0, w1, w2), norms, k, v, lr, STEPS)])

    return step


def _apply(apply: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda w0, w1, w2, q: apply((w0, w1, w2), q)


def _in_mode(mode: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*inputs: Any) -> Any:
        with backend.use(mode):
            return function(*inputs)

    return run


def _autocast(layer: Callable[..., Any], device: str) -> Callable[..., Any]:
    def run(*inputs: Any) -> Any:
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            return layer(*inputs)

    return run


def _inputs(n: int, m: int, learnt: int, answered: int, device: str) -> tuple[list[Tensor], list[Tensor]]:
    cuda = device == "cuda"
    d, dtype = (WIDTH, torch.bfloat16) if cuda else (32, torch.float32)
    torch.manual_seed(0)  # the same numbers for every path, whenever it is measured
    w = [torch.randn(s, device=device) * (2 / s[1]) ** 0.5 for s in ((n, d, m), (n, m, d), (n, d, m))]
    k, v, q = (torch.randn(n, t, d, device=device, dtype=dtype) for t in (learnt, learnt, answered))
    k, q = (torch.nn.functional.normalize(x, dim=-1) for x in (k, q))
    leaves = [*w, k, v, torch.rand(3, n, learnt, device=device) * 0.02, q]
    return [x.requires_grad_() for x in leaves], [reference.column_norms(x.detach()) for x in w]


def _paths(op: str, device: str, compiled: bool) -> dict[str, Callable[..., Tensor]]:
    """Return the competing functions of an operator by name: ours and PyTorch's, or what torch.compile makes."""

    def made(update: Callable[..., Any], apply: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return _layer(update, apply) if op == "ttt" else _update(update) if op == "ttt_update" else _apply(apply)

    ours, plain = made(_new, ttt_apply), made(reference.update, reference.apply)
    if compiled:
        return {"compiled": _autocast(torch.compile(plain, dynamic=False), device)}
    mode = "triton" if device == "cuda" else "interpret"
    return {"ours": _in_mode(mode, ours), "closed form": _in_mode("torch", ours), "eager": _autocast(plain, device)}


def _case(op: str, shape: tuple[int, int, int, int], device: str, compiled: bool) -> Case:
    n, m, learnt, answered = shape
    leaves, norms = _inputs(*shape, device)
    inputs: dict[str, tuple[list[Tensor], list[Any]]] = {
        "ttt": (leaves, [norms]),
        "ttt_update": (leaves[:6], [norms]),
        "ttt_apply": ([*leaves[:3], leaves[6]], []),
    }
    given, rest = inputs[op]
    functions = _paths(op, device, compiled)
    forward: dict[str, Call] = {name: lambda f=f: f(*given, *rest) for name, f in functions.items()}
    train = {name: training(f, given, *rest) for name, f in functions.items()}
    d, tokens = leaves[3].shape[2], answered if op == "ttt_apply" else learnt
    work = {"ttt": 12 * learnt + 6 * answered, "ttt_update": 12 * learnt, "ttt_apply": 6 * answered}[op]
    flops = n * d * m * work + (0.0 if op == "ttt_apply" else _ns_flops(n, d, m))
    sizes = {"n": n, "l": tokens, "d": d, "m": m}
    return Case(op, sizes, str(leaves[3].dtype).removeprefix("torch."), float(flops), forward, train)


def _ns_flops(n: int, d: int, m: int) -> float:
    return 3.0 * STEPS * n * (4.0 * d * d * m + 2.0 * d**3)


def _ns_case(n: int, m: int, device: str, compiled: bool) -> Case:
    cuda = device == "cuda"
    d, low = (WIDTH, torch.bfloat16) if cuda else (32, torch.float32)
    torch.manual_seed(0)
    g = torch.randn(3 * n, d, m, device=device)
    plain = torch.compile(reference.newton_schulz, dynamic=False) if compiled else reference.newton_schulz
    forward: dict[str, Call] = {"compiled" if compiled else "eager": lambda: _autocast(plain, device)(g, STEPS)}
    if not compiled:
        mode = "triton" if cuda else "interpret"
        forward["ours"] = lambda: _in_mode(mode, newton_schulz.forward)(g, STEPS, low)[0]
        forward["closed form"] = lambda: reference.newton_schulz(g, STEPS, low if cuda else None)
    sizes, name = {"n": n, "d": d, "m": m}, str(low).removeprefix("torch.")
    return Case("newton_schulz", sizes, name, _ns_flops(n, d, m), forward, {}, cuda)


def cases(device: str) -> Iterator[Case]:
    """Yield Newton-Schulz, whole layers at the roofline shapes, then update and answer apart; on CPU a rehearsal."""
    cuda = device == "cuda"
    for shape in NS_SHAPES if cuda else [(1, 64)]:
        yield _ns_case(*shape, device, compiled=False)
    for shapes, ops in ((ROOFLINE, LAYER), (GRID, PARTS), (ROOFLINE, PARTS)):
        for shape in shapes if cuda else [(1, 64, 64, 70)]:
            yield from (_case(op, shape, device, compiled=False) for op in ops)


def compiled_cases(device: str) -> Iterator[Case]:
    """Yield whole layers and Newton-Schulz under torch.compile, at the sizes that the targets name."""
    cuda = device == "cuda"
    for shape in ROOFLINE[:2] if cuda else [(1, 64, 64, 70)]:
        yield from (_case(op, shape, device, compiled=True) for op in LAYER)
    for shape in NS_COMPILED if cuda else [(1, 64)]:
        yield _ns_case(*shape, device, compiled=True)
    for shape in ROOFLINE[2:] if cuda else []:
        yield from (_case(op, shape, device, compiled=True) for op in LAYER)
