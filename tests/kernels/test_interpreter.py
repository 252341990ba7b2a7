"""The test equipment itself: bfloat16 in the interpreter, poisoned outputs, and what imports Triton."""

import subprocess
import sys

import pytest
import torch
import triton
import triton.language as tl


@triton.jit
def _product(a_ptr, b_ptr, wide_ptr, narrow_ptr, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)[:, None] * SIZE + tl.arange(0, SIZE)[None, :]
    c = tl.dot(tl.load(a_ptr + at), tl.load(b_ptr + at))
    tl.store(wide_ptr + at, c)
    tl.store(narrow_ptr + at, c.to(tl.bfloat16))


@pytest.mark.usefixtures("bf16")
def test_bf16_canary() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(32, 32, generator=generator).bfloat16() for _ in range(2))
    wide, narrow = torch.empty(32, 32), torch.empty(32, 32, dtype=torch.bfloat16)
    _product[(1,)](a, b, wide, narrow, SIZE=32)
    torch.testing.assert_close(wide, a.float() @ b.float(), rtol=1e-5, atol=1e-5)
    assert torch.equal(narrow, wide.bfloat16()), "casts must round to nearest even"


@pytest.mark.usefixtures("poisoned")
def test_poison_reaches_every_allocation() -> None:
    x = torch.zeros(3)
    assert all(made.isnan().all() for made in (torch.empty(2), torch.empty_like(x), x.new_empty(2)))


def test_importing_the_package_needs_no_triton() -> None:
    block = "import sys; sys.modules['triton'] = None; import novelview_kernels as n, torch; "
    call = "w = torch.ones(4); print(tuple(n.qk_attention(torch.ones(1, 3, 3, 2, 4), w, w, 1e-3).shape))"
    run = subprocess.run([sys.executable, "-c", block + call], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "(1, 3, 2, 4)"
