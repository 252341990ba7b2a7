"""Attention over all tokens with RMSNorm on q and k (formula and design in README.md)."""

from torch import Tensor

from novelview_kernels import backend
from novelview_kernels.attention import configs, reference
from novelview_kernels.attention.op import attention

OP = "qk_attention"


def _sizes(qkv: Tensor) -> dict[str, int]:
    b, n, _, h, d = qkv.shape
    return {"b": b, "h": h, "n": n, "d": d}


def chosen(qkv: Tensor) -> str:
    """Return what `qk_attention` runs on for a projection like this: "triton", "interpret" or "torch"."""
    return backend.choose(OP, qkv, configs.unsupported(qkv), _sizes(qkv))


def check(qkv: Tensor, q_weight: Tensor, k_weight: Tensor) -> None:
    """Raise ValueError unless qkv is [B, N, 3, H, D] and both weights are [D]."""
    if qkv.ndim != 5 or qkv.shape[2] != 3:
        raise ValueError(f"qkv has shape {list(qkv.shape)}; it must be [batch, tokens, 3, heads, head width]")
    for name, weight in (("q_weight", q_weight), ("k_weight", k_weight)):
        if weight.shape != qkv.shape[-1:]:
            raise ValueError(f"{name} has shape {list(weight.shape)}; it must be [{qkv.shape[-1]}], the head width")


def qk_attention(qkv: Tensor, q_weight: Tensor, k_weight: Tensor, eps: float) -> Tensor:
    """Attend over all tokens after RMSNorm of q and k; differentiable in qkv and both weights.

    Args:
        qkv: packed projection [B, N, 3, H, D]; any strides, any N. Kernels take bfloat16, float16; D 32, 64, 128.
        q_weight, k_weight: norm weights [D].
        eps: added to the mean square; above 0 where rows may be all zero.

    Returns:
        [B, N, H, D] in qkv's type: softmax(q-hat k-hat^T / sqrt(D)) v, q-hat = q / sqrt(mean(q^2) + eps) * q_weight.

    Raises:
        ValueError: a shape does not fit, or NOVELVIEW_KERNELS demands what these tensors do not allow."""
    check(qkv, q_weight, k_weight)
    if chosen(qkv) == "torch":
        return reference.dense(qkv, q_weight, k_weight, eps)
    return attention(qkv, q_weight, k_weight, eps, qkv.shape[1], 0)[0]
