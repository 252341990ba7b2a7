"""Triton operators with plain PyTorch references; `NOVELVIEW_KERNELS` = auto, triton, torch or interpret chooses.

Importing this needs torch alone: Triton is imported by the first call that runs a kernel."""

from novelview_kernels.context_attention import context_attention
from novelview_kernels.qk_attention import qk_attention

__all__ = ["context_attention", "qk_attention"]
