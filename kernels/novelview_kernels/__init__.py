"""Kernels: Triton operators with plain references (empty until the attention and TTT operators land)."""
