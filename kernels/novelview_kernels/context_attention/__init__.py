"""Many views, each attending to a shared context and itself, without repeating keys or values (README.md)."""

from torch import Tensor

from novelview_kernels import backend
from novelview_kernels.attention import configs, reference
from novelview_kernels.attention.op import attention
from novelview_kernels.qk_attention import check

OP = "context_attention"


def chosen(qkv: Tensor, context: int, view: int) -> str:
    """Return what `context_attention` runs on for a projection like this: "triton", "interpret" or "torch"."""
    b, n, _, h, d = qkv.shape
    sizes = {"b": b, "h": h, "context": context, "view": view, "views": (n - context) // view, "d": d}
    return backend.choose(OP, qkv, configs.unsupported(qkv), sizes)


def context_attention(qkv: Tensor, q_weight: Tensor, k_weight: Tensor, eps: float, context: int, view: int) -> Tensor:
    """Attend with RMSNorm on q and k; context tokens see the context, a view's tokens the context and their own view.

    Args:
        qkv: packed projection [B, N, 3, H, D] of `context` tokens followed by views of `view` tokens each.
        q_weight, k_weight: norm weights [D].
        eps: added to the mean square.
        context: number of context tokens, 0 or more.
        view: tokens of one view, 1 or more.

    Returns:
        [B, N, H, D] in qkv's type.

    Raises:
        ValueError: a shape does not fit, or NOVELVIEW_KERNELS demands what these tensors do not allow."""
    check(qkv, q_weight, k_weight)
    rest = qkv.shape[1] - context
    if context < 0 or view < 1 or rest < view or rest % view:
        raise ValueError(f"{qkv.shape[1]} tokens are no context of {context} and whole views of {view}")
    if chosen(qkv, context, view) == "torch":
        return reference.repeated(qkv, q_weight, k_weight, eps, context, view)
    return attention(qkv, q_weight, k_weight, eps, context, view)[0]
