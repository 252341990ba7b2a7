"""What `context_attention` is measured against: repeated keys, two merged calls, FlexAttention with a block mask."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.nn.functional import scaled_dot_product_attention

from novelview_kernels import backend
from novelview_kernels.attention import reference
from novelview_kernels.context_attention import context_attention
from novelview_kernels.context_attention.merged import merged
from novelview_kernels.gpu.measure import Call, Case
from novelview_kernels.qk_attention.bench import training

HEADS, WIDTH, EPS = 12, 64, 1e-3
SHAPES = [
    (batch, context, view, views)
    for views in (8, 4, 1)
    for context in (2048, 1024, 4096)
    for view in (1024, 256)
    for batch in (1, 4)
]
COMPILED = [(1, 2048, 1024, 8), (4, 2048, 1024, 8), (1, 1024, 256, 8), (4, 4096, 1024, 8), (1, 4096, 256, 4)]
MASKED_ELEMENTS = 1 << 27  # a dense mask of more is not tried


def _flex(context: int, view: int, n: int, device: str) -> Callable[..., Tensor]:
    def visible(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        own = (query >= context) & ((query - context) // view == (key - context) // view)
        return (key < context) | own

    mask = create_block_mask(visible, None, None, n, n, device=device)

    def attend(qkv: Tensor, wq: Tensor, wk: Tensor, eps: float, *sizes: int) -> Tensor:
        out: Any = flex_attention(*reference.heads_first(qkv, wq, wk, eps), block_mask=mask)
        return out.transpose(1, 2)

    return torch.compile(attend, dynamic=False)


def _ours(mode: str) -> Callable[..., Tensor]:
    def attend(*inputs: Any) -> Tensor:
        with backend.use(mode):
            return context_attention(*inputs)

    return attend


def _masked(context: int, view: int, n: int, device: str) -> Callable[..., Tensor]:
    mask = reference.allowed(n, context, view, torch.device(device))

    def attend(qkv: Tensor, wq: Tensor, wk: Tensor, eps: float, *sizes: int) -> Tensor:
        return scaled_dot_product_attention(*reference.heads_first(qkv, wq, wk, eps), attn_mask=mask).transpose(1, 2)

    return attend


def _paths(sizes: tuple[int, int, int], device: str) -> dict[str, Callable[..., Tensor]]:
    ours = _ours("triton" if device == "cuda" else "interpret")
    found = {"ours": ours, "repeated": reference.repeated, "merged": merged}
    if sizes[2] ** 2 <= MASKED_ELEMENTS:
        found["masked"] = _masked(*sizes, device)
    return found


def _case(
    shape: tuple[int, int, int, int],
    device: str,
    paths: Callable[[tuple[int, int, int], str], dict[str, Callable[..., Tensor]]],
) -> Case:
    (batch, context, view, views), cuda = shape, device == "cuda"
    n, heads, dtype = context + view * views, HEADS if cuda else 1, torch.bfloat16 if cuda else torch.float32
    torch.manual_seed(0)  # the same numbers for every path, whenever it is measured
    qkv = torch.randn(batch, n, 3, heads, WIDTH, device=device, dtype=dtype).requires_grad_()
    weights = [(1 + 0.1 * torch.randn(WIDTH, device=device)).requires_grad_() for _ in range(2)]
    functions, rest = paths((context, view, n), device), (EPS, context, view)
    forward: dict[str, Call] = {name: lambda f=f: f(qkv, *weights, *rest) for name, f in functions.items()}
    train = {name: training(f, [qkv, *weights], *rest) for name, f in functions.items()}
    sizes = {"b": batch, "h": heads, "context": context, "view": view, "views": views, "d": WIDTH}
    flops = 4.0 * batch * heads * WIDTH * (context * context + views * view * (context + view))
    return Case("context_attention", sizes, str(dtype).removeprefix("torch."), flops, forward, train)


def cases(device: str) -> Iterator[Case]:
    """Yield the shapes of specs/kernels_feasibility.md section 8; on CPU one small rehearsal."""
    for shape in SHAPES if device == "cuda" else [(1, 64, 20, 2)]:
        yield _case(shape, device, _paths)


def compiled_cases(device: str) -> Iterator[Case]:
    """Yield some of the same shapes for FlexAttention; none on a CPU, where it cannot be differentiated."""
    for shape in COMPILED if device == "cuda" else []:
        yield _case(shape, device, lambda sizes, device: {"flex": _flex(*sizes, device)})
