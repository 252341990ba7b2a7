"""Fast-weight kernels through Triton's interpreter: values and all gradients against float64."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from novelview_kernels import backend
from novelview_kernels.gpu import ttt_checks
from novelview_kernels.ttt import newton_schulz as kernels
from novelview_kernels.ttt import reference, ttt_apply, ttt_update
from novelview_kernels.ttt.op import ttt_apply as apply_op
from novelview_kernels.ttt.op import ttt_update as update_op

pytestmark = pytest.mark.usefixtures("poisoned")
NAMES = ("w0'", "w1'", "w2'", "o", "dw0", "dw1", "dw2", "dk", "dv", "dlr", "dq")
# float16 and bfloat16: specs/ttt_kernels.md section 5 (outputs 2e-2, gradients 4e-2), with all products rounded
CEILING = {torch.float32: (1e-5, 1e-5), torch.float16: (5e-3, 1e-2), torch.bfloat16: (2e-2, 4e-2)}


class Case(NamedTuple):
    """Heads, head width, hidden width, tokens learnt, Newton-Schulz steps."""

    n: int
    d: int
    m: int
    t: int
    steps: int

    def __str__(self) -> str:
        return "N{}-D{}-M{}-T{}-S{}".format(*self)


CASES = [Case(1, 32, 64, 64, 2), Case(2, 40, 72, 70, 1), Case(1, 48, 48, 33, 0)]


def _inputs(case: Case, dtype: torch.dtype, seed: int = 0) -> tuple[list[Tensor], list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    n, d, m, t, _ = case
    w = [normal(n, d, m) * (2 / d) ** 0.5, normal(n, m, d) * (2 / m) ** 0.5, normal(n, d, m) * (2 / d) ** 0.5]
    norms = [x.square().sum(1, keepdim=True).sqrt() for x in w]
    k, v, q = (torch.nn.functional.silu(normal(n, t + extra, d)) for extra in (0, 0, 7))
    k, q = (torch.nn.functional.normalize(x, dim=-1) for x in (k, q))
    lr = torch.nn.functional.softplus(normal(3, n, t) - 4.6)
    return [*w, k.to(dtype), v.to(dtype), lr, q.to(dtype)], norms, normal(n, t + 7, d)


Function = Callable[..., tuple[Tensor, ...]]


def _run(update: Function, apply: Callable[..., Tensor], case: Case, inputs: tuple, exact: bool) -> list[Tensor]:
    values, norms, cotangent = inputs
    leaves = [x.double() if exact else x for x in values]
    leaves = [x.detach().requires_grad_() for x in leaves]
    new = update(leaves[:3], [x.to(leaves[0].dtype) for x in norms], *leaves[3:6], case.steps)
    out = apply(new, leaves[6])
    found = torch.autograd.grad((out, *new), leaves, (cotangent.to(out.dtype), *(0.1 * x.detach().sin() for x in new)))
    return [*(x.detach() for x in (*new, out)), *found]


def _ours(case: Case, inputs: tuple) -> list[Tensor]:
    return _run(lambda *x: ttt_update(*x)[0], ttt_apply, case, inputs, exact=False)


def _errors(found: list[Tensor], truth: list[Tensor]) -> dict[str, float]:
    return {name: float((a.double() - b).norm() / b.norm()) for name, a, b in zip(NAMES, found, truth, strict=True)}


def _check(case: Case, dtype: torch.dtype) -> None:
    inputs = _inputs(case, dtype)
    errors = _errors(_ours(case, inputs), _run(reference.update, reference.apply, case, inputs, exact=True))
    values, gradients = CEILING[dtype]
    worse = {name: error for name, error in errors.items() if not error <= (gradients if name[0] == "d" else values)}
    assert not worse


@pytest.mark.usefixtures("interpret")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_float32_equals_float64(case: Case) -> None:
    _check(case, torch.float32)


@pytest.mark.usefixtures("interpret")
def test_float16() -> None:
    _check(Case(1, 32, 64, 128, 3), torch.float16)


@pytest.mark.usefixtures("bf16")
def test_bfloat16() -> None:
    _check(Case(1, 32, 64, 128, 1), torch.bfloat16)


@pytest.mark.slow
@pytest.mark.usefixtures("bf16")
@pytest.mark.parametrize("case", ttt_checks.interpreted(), ids=str)
def test_bfloat16_errs_no_more_than_autocast(case: ttt_checks.Case) -> None:
    """The check of the GPU suite at sizes for an interpreter: new weights, answers, gradients against float64."""
    verdicts = list(ttt_checks.check(case, "cpu", "interpret"))
    assert len(verdicts) == 11 and not [verdict for verdict in verdicts if not verdict.passed]


@pytest.mark.slow
@pytest.mark.usefixtures("interpret")
@pytest.mark.parametrize("case", [Case(1, 32, 64, 64, 5), Case(1, 136, 200, 150, 2), Case(2, 64, 256, 256, 5)], ids=str)
def test_float32_at_several_tiles(case: Case) -> None:
    _check(case, torch.float32)


@pytest.mark.usefixtures("interpret")
def test_symmetric_products_over_three_rows_of_tiles() -> None:
    """Three rows of tiles: the folding of the triangle into a rectangle has a middle row of its own."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(2, 150, 70, generator=generator) for _ in range(2))
    add = torch.randn(2, 150, 150, generator=generator)
    add = add + add.mT
    found = kernels.symmetric(left, right, 0.5, 2.0, add, pair=True, wide=True)[0]
    truth = 0.5 * add + 2.0 * (left @ right.mT + right @ left.mT)
    torch.testing.assert_close(found, truth, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found[:, :64, 64:], found[:, 64:, :64].mT, rtol=0, atol=0)  # mirrored, not computed


@pytest.mark.usefixtures("interpret")
def test_legs_change_nothing_but_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(1, 32, 64, 300, 1)
    whole = _ours(case, _inputs(case, torch.float32))
    monkeypatch.setattr("novelview_kernels.ttt.configs.LEG", 128 * 64)
    for name, a, b in zip(NAMES, _ours(case, _inputs(case, torch.float32)), whole, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=1e-5 * float(b.abs().max()), msg=name)


@pytest.mark.usefixtures("interpret")
def test_strided_keys_and_rates() -> None:
    case = Case(2, 32, 64, 40, 1)
    (*w, k, v, lr, q), norms, cotangent = _inputs(case, torch.float32)
    truth = _ours(case, ([*w, k, v, lr, q], norms, cotangent))
    packed = torch.stack([k, v], 2)
    strided = [*w, packed[:, :, 0], packed[:, :, 1], lr.permute(1, 2, 0).contiguous().permute(2, 0, 1), q]
    for a, b in zip(_ours(case, (strided, norms, cotangent)), truth, strict=True):
        assert torch.equal(a, b)


QUICK = ("test_schema", "test_autograd_registration", "test_faketensor")


@pytest.mark.usefixtures("interpret")
@pytest.mark.parametrize(
    "utilities", [QUICK, pytest.param(("test_aot_dispatch_dynamic",), marks=pytest.mark.slow)], ids=["quick", "traced"]
)
def test_opcheck(utilities: tuple[str, ...]) -> None:
    case = Case(1, 8, 16, 12, 2)
    (*w, k, v, lr, q), norms, _ = _inputs(case, torch.float32)
    leaves = [x.requires_grad_() for x in (*w, k, v, lr, q)]
    low = [x.detach().clone() for x in w]
    torch.library.opcheck(update_op, (leaves[:3], norms, *leaves[3:6], 0), test_utils=utilities)
    torch.library.opcheck(apply_op, (leaves[:3], low, leaves[6]), test_utils=utilities)


@pytest.mark.usefixtures("interpret")
def test_compiled_whole_and_equal() -> None:
    case = Case(1, 32, 64, 33, 1)
    (*w, k, v, lr, q), norms, _ = _inputs(case, torch.float32)

    def answer(*x: Tensor) -> Tensor:
        new, low = ttt_update(x[:3], norms, *x[3:6], 1)
        return ttt_apply(new, x[6], low).square().sum()

    leaves = [x.requires_grad_() for x in (*w, k, v, lr, q)]
    compiled = torch.compile(answer, fullgraph=True, backend="aot_eager")
    for a, b in zip(
        torch.autograd.grad(compiled(*leaves), leaves), torch.autograd.grad(answer(*leaves), leaves), strict=True
    ):
        assert torch.equal(a, b)


def test_wrong_shapes_say_what_is_wrong() -> None:
    (*w, k, v, lr, q), norms, _ = _inputs(Case(1, 8, 16, 12, 2), torch.float32)
    with pytest.raises(ValueError, match=r"w1 has shape \[1, 8, 16\]; beside w0 \[1, 8, 16\] it must be \[1, 16, 8\]"):
        ttt_update([w[0], w[0], w[2]], norms, k, v, lr)
    with pytest.raises(ValueError, match=r"tokens have shape \[1, 19, 7\]; .* must be \[1, tokens, 8\]"):
        ttt_apply(w, q[..., :7])
    with backend.use("triton"), pytest.raises(ValueError, match="ttt_apply cannot: it needs CUDA tensors"):
        ttt_apply(w, q)
