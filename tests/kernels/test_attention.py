"""Both attention operators through Triton's interpreter: values and gradients against float64."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from novelview_kernels import context_attention, qk_attention
from novelview_kernels.attention import reference, run
from novelview_kernels.gpu import attention_checks

pytestmark = pytest.mark.usefixtures("poisoned")
EPS = 1e-6
NAMES = ("o", "dqkv", "dwq", "dwk")
CEILING = {torch.float32: 1e-5, torch.float16: 1.5e-3, torch.bfloat16: 1.5e-2}


class Case(NamedTuple):
    """Sizes of one case: batch, heads, head width, context tokens, tokens of a view, views (0: dense attention)."""

    b: int
    h: int
    d: int
    context: int
    view: int = 0
    views: int = 0

    def __str__(self) -> str:
        return f"B{self.b}-H{self.h}-D{self.d}-C{self.context}" + (f"-V{self.views}x{self.view}" if self.view else "")


DENSE = [Case(2, 2, 32, 64), Case(1, 2, 64, 100), Case(1, 1, 128, 67), Case(1, 1, 64, 1)]
VIEWS = [Case(1, 2, 32, 96, 40, 3), Case(1, 1, 64, 64, 64, 2), Case(1, 1, 64, 0, 40, 2), Case(2, 1, 32, 5, 70, 1)]


def _inputs(case: Case, dtype: torch.dtype, weight: float, scale: float = 1.0, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    n = case.context + case.view * case.views
    qkv = torch.randn(case.b, n, 3, case.h, case.d, generator=generator) * scale
    weights = [weight * (1 + 0.3 * torch.randn(case.d, generator=generator)) for _ in range(2)]
    do = torch.randn(case.b, n, case.h, case.d, generator=generator)
    return [qkv.to(dtype), *weights, do.to(dtype)]


def _run(attend: Callable[[Tensor, Tensor, Tensor], Tensor], inputs: list[Tensor]) -> list[Tensor]:
    qkv, wq, wk = (x.detach().requires_grad_() for x in inputs[:3])
    o = attend(qkv, wq, wk)
    return [o.detach(), *torch.autograd.grad(o, (qkv, wq, wk), inputs[3])]


def _ours(case: Case, inputs: list[Tensor]) -> list[Tensor]:
    if not case.views:
        return _run(lambda *x: qk_attention(*x, EPS), inputs)
    return _run(lambda *x: context_attention(*x, EPS, case.context, case.view), inputs)


def _plain(case: Case, inputs: list[Tensor]) -> list[Tensor]:
    if not case.views:
        return _run(lambda *x: reference.dense(*x, EPS), inputs)
    return _run(lambda *x: reference.repeated(*x, EPS, case.context, case.view), inputs)


def _errors(found: list[Tensor], truth: list[Tensor]) -> dict[str, float]:
    pairs = zip(NAMES, found, truth, strict=True)
    return {name: float((a.double() - b).norm() / b.norm().clamp_min(1e-30)) for name, a, b in pairs}


def _check(case: Case, dtype: torch.dtype, weight: float, scale: float = 1.0) -> None:
    inputs = _inputs(case, dtype, weight, scale)
    errors = _errors(_ours(case, inputs), _plain(case, [x.double() for x in inputs]))
    if case.context + case.view == 1:
        errors = {"o": errors["o"]}  # a single token: q and k have no influence, their gradients are rounding
    assert all(error <= CEILING[dtype] for error in errors.values()), errors


@pytest.mark.usefixtures("interpret")
@pytest.mark.parametrize("weight", [0.5, 2.0])
@pytest.mark.parametrize("case", DENSE + VIEWS, ids=str)
def test_float32_equals_float64(case: Case, weight: float) -> None:
    _check(case, torch.float32, weight)


@pytest.mark.usefixtures("interpret")
@pytest.mark.parametrize("case", [DENSE[1], VIEWS[0]], ids=str)
def test_float16(case: Case) -> None:
    _check(case, torch.float16, 1.0)


@pytest.mark.usefixtures("bf16")
@pytest.mark.parametrize("case", [DENSE[1], VIEWS[0]], ids=str)
def test_bfloat16(case: Case) -> None:
    _check(case, torch.bfloat16, 1.0)


@pytest.mark.usefixtures("interpret")
def test_running_maximum_where_the_bound_is_not_safe() -> None:
    """Weights of 4 put the bound at 2 * 185 powers of two: the kernel must fall back to the running maximum."""
    _check(DENSE[1], torch.float32, 4.0)
    _check(VIEWS[0], torch.float32, 4.0)


RATIO = attention_checks.interpreted()


@pytest.mark.usefixtures("bf16")
@pytest.mark.parametrize(
    "case", [RATIO[0], *(pytest.param(case, marks=pytest.mark.slow) for case in RATIO[1:])], ids=str
)
def test_bfloat16_errs_no_more_than_the_published_order(case: attention_checks.Case) -> None:
    """The check of the GPU suite at sizes for an interpreter: o, dq, dk, dv, dwq, dwk, lse against float64."""
    verdicts = list(attention_checks.check(case, "cpu", "interpret"))
    assert len(verdicts) == 7 and not [verdict for verdict in verdicts if not verdict.passed]


@pytest.mark.usefixtures("interpret")
@pytest.mark.parametrize("case", [DENSE[1], VIEWS[0]], ids=str)
def test_the_bound_changes_nothing_but_rounding(case: Case) -> None:
    """Softmax does not depend on what is subtracted from the logits: specs/kernels_feasibility.md section 4."""
    qkv, wq, wk, _ = _inputs(case, torch.float32, 1.0)
    sizes = (EPS, case.context, case.view)
    with_bound, with_maximum = (run.forward(qkv, wq, wk, *sizes, bounded=bounded) for bounded in (True, False))
    torch.testing.assert_close(with_bound.o, with_maximum.o, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(with_bound.lse, with_maximum.lse, rtol=1e-6, atol=1e-5)


@pytest.mark.usefixtures("interpret")
def test_non_contiguous_inputs() -> None:
    case = Case(1, 2, 32, 70)
    inputs = _inputs(case, torch.float32, 1.0)
    truth = _ours(case, inputs)
    strided = inputs[0].transpose(1, 3).contiguous().transpose(1, 3)
    channels = inputs[0].transpose(1, 4).contiguous().transpose(1, 4)
    do = inputs[3].transpose(1, 2).contiguous().transpose(1, 2)
    for qkv in (strided, channels):
        assert not qkv.is_contiguous()
        for a, b in zip(_ours(case, [qkv, *inputs[1:3], do]), truth, strict=True):
            assert torch.equal(a, b)


@pytest.mark.usefixtures("interpret")
def test_rows_of_zeros_stay_finite() -> None:
    inputs = _inputs(Case(1, 1, 32, 40), torch.float32, 1.0)
    inputs[0][:, :7] = 0
    assert all(x.isfinite().all() for x in _ours(Case(1, 1, 32, 40), inputs))


@pytest.mark.usefixtures("interpret")
def test_permuting_tokens_permutes_the_output() -> None:
    case = Case(1, 1, 32, 70)
    qkv, wq, wk, do = _inputs(case, torch.float32, 1.0)
    order = torch.randperm(70, generator=torch.Generator().manual_seed(1))
    o, dqkv, *_ = _ours(case, [qkv, wq, wk, do])
    o2, dqkv2, *_ = _ours(case, [qkv[:, order], wq, wk, do[:, order]])
    torch.testing.assert_close(o2, o[:, order], rtol=0, atol=1e-5)
    torch.testing.assert_close(dqkv2, dqkv[:, order], rtol=0, atol=1e-5)
