"""What `qk_attention` is measured against: PyTorch's attention on each of its backends, compiled, and FlexAttention."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention

from novelview_kernels import backend
from novelview_kernels.attention import reference, run
from novelview_kernels.gpu.measure import Call, Case
from novelview_kernels.qk_attention import qk_attention

HEADS, WIDTH, EPS = 12, 64, 1e-3
SHAPES = [
    (1, 1280),
    (8, 1280),
    (8, 3072),
    (4, 3762),
    (1, 1536),
    (8, 1536),
    (1, 3762),
    (1, 5000),
    (1, 10000),
    (1, 20000),
]
COMPILED = [(8, 1280), (1, 1280), (8, 3072), (4, 3762), (1, 3762), (1, 1536), (1, 10000)]
LAUNCH_BOUND = {(1, 1280), (1, 1536)}


def _on(kind: SDPBackend, attend: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run_on(*inputs: Any) -> Tensor:
        with sdpa_kernel(kind):
            return attend(*inputs)

    return run_on


def _flex(qkv: Tensor, wq: Tensor, wk: Tensor, eps: float) -> Tensor:
    out: Any = flex_attention(*reference.heads_first(qkv, wq, wk, eps))
    return out.transpose(1, 2)


def _ours(mode: str) -> Callable[..., Tensor]:
    def attend(*inputs: Any) -> Tensor:
        with backend.use(mode):
            return qk_attention(*inputs)

    return attend


def paths(cuda: bool) -> dict[str, Callable[..., Tensor]]:
    """Return the competing functions that need no compiler of PyTorch's, by name."""
    if not cuda:
        return {"ours": _ours("interpret"), "sdpa": reference.dense}
    found = {"ours": _ours("triton"), "sdpa": reference.dense}
    found["sdpa cudnn"] = _on(SDPBackend.CUDNN_ATTENTION, reference.dense)
    found["sdpa flash"] = _on(SDPBackend.FLASH_ATTENTION, reference.dense)
    return found


def compiled_paths(cuda: bool) -> dict[str, Callable[..., Tensor]]:
    """Return those that `torch.compile` makes; on a CPU, where FlexAttention has no gradients, the plain one alone."""
    dense = torch.compile(reference.dense, dynamic=False)
    if not cuda:
        return {"compiled": dense}
    cudnn = _on(SDPBackend.CUDNN_ATTENTION, torch.compile(reference.dense, dynamic=False))
    return {"compiled": dense, "compiled cudnn": cudnn, "flex": torch.compile(_flex, dynamic=False)}


def training(attend: Callable[..., Tensor], leaves: list[Tensor], *rest: Any) -> Call:
    """Return a call of forward and backward through `attend(*leaves, *rest)`."""
    cotangent: list[Tensor] = []

    def step() -> None:
        out = attend(*leaves, *rest)
        if not cotangent:
            cotangent.append(torch.randn_like(out))
        torch.autograd.grad(out, leaves, cotangent[0])

    return step


def _case(b: int, n: int, device: str, functions: dict[str, Callable[..., Tensor]]) -> Case:
    cuda = device == "cuda"
    dtype = torch.bfloat16 if cuda else torch.float32
    torch.manual_seed(0)  # the same numbers for every path, whenever it is measured
    qkv = torch.randn(b, n, 3, HEADS if cuda else 2, WIDTH, device=device, dtype=dtype).requires_grad_()
    weights = [(1 + 0.1 * torch.randn(WIDTH, device=device)).requires_grad_() for _ in range(2)]
    forward: dict[str, Call] = {name: lambda f=f: f(qkv, *weights, EPS) for name, f in functions.items()}
    train = {name: training(f, [qkv, *weights], EPS) for name, f in functions.items()}
    if cuda and "ours" in functions:
        forward["(pre-pass alone)"] = lambda: run.normalise(qkv, weights[0], weights[1], EPS)
        forward["(running maximum)"] = lambda: run.forward(qkv, weights[0], weights[1], EPS, n, 0, bounded=False)
    sizes = {"b": b, "h": qkv.shape[3], "n": n, "d": WIDTH}
    flops = 4.0 * b * qkv.shape[3] * n * n * WIDTH
    name = str(dtype).removeprefix("torch.")
    return Case("qk_attention", sizes, name, flops, forward, train, graphs=(b, n) in LAUNCH_BOUND, profiled=True)


def cases(device: str) -> Iterator[Case]:
    """Yield the shapes of specs/kernels_feasibility.md section 8; on CPU one small rehearsal."""
    cuda = device == "cuda"
    for b, n in SHAPES if cuda else [(1, 70)]:
        yield _case(b, n, device, paths(cuda))


def compiled_cases(device: str) -> Iterator[Case]:
    """Yield some of the same shapes with the paths that take longer to compile than to measure."""
    cuda = device == "cuda"
    for b, n in COMPILED if cuda else [(1, 70)]:
        yield _case(b, n, device, compiled_paths(cuda))
