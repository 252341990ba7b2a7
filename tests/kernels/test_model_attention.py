"""Models with their attention in our kernel, interpreted, beside PyTorch's: outputs and gradients in float32."""

import pytest
import torch
from torch import Tensor

from novelview.config.models import TransformerConfig
from novelview.models.layers import make_blocks, run_blocks
from novelview_kernels import backend

CFG = TransformerConfig(d=64, d_head=32, qk_norm_eps=1e-3)


def _outputs_and_gradients(mode: str) -> list[Tensor]:
    torch.manual_seed(0)
    blocks = make_blocks(CFG, 2)
    with torch.no_grad():
        for name, parameter in blocks.named_parameters():
            if "norm" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    x = torch.randn(2, 41, CFG.d, requires_grad=True)
    with backend.use(mode):
        out = run_blocks(blocks, x, recompute=False)
        leaves = [x, *blocks.parameters()]
        return [out.detach(), *torch.autograd.grad(out.square().sum(), leaves)]


def test_blocks_with_the_kernel_equal_blocks_without() -> None:
    """Covers the projection's layout, both norms' weights and eps: specs/uplvsm.md section 2.1."""
    for ours, theirs in zip(_outputs_and_gradients("interpret"), _outputs_and_gradients("torch"), strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()


def test_cpu_keeps_pytorch_s_attention_bit_for_bit() -> None:
    for auto, plain in zip(_outputs_and_gradients("auto"), _outputs_and_gradients("torch"), strict=True):
        assert torch.equal(auto, plain)


@pytest.mark.parametrize("mode", ["triton"])
def test_what_cannot_run_is_refused(mode: str) -> None:
    with pytest.raises(ValueError, match="qk_attention cannot: it needs CUDA tensors"):
        _outputs_and_gradients(mode)
