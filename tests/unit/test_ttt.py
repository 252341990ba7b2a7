"""The fast-weight operation: its closed form against finite differences and autograd, what it keeps, how it rounds."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from novelview.models.ttt import Span, ttt_update_apply
from novelview_kernels.ttt import closed_form, reference
from novelview_kernels.ttt.iterates import iterates, newton_schulz_backward
from novelview_kernels.ttt.reference import FastWeights, column_norms, newton_schulz

SHAPES = {"wide": (3, 5), "tall": (5, 3), "square": (4, 4)}
LEARN_THEN_ANSWER = [Span(0, 6, True, False), Span(0, 8, False, True)]
LEARN_TWICE = [Span(0, 3, True, True), Span(3, 6, True, False), Span(3, 8, False, True)]


def _inputs(
    d: int, m: int, tokens: int = 8, heads: int = 2, seed: int = 0, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    """Return w0, w1, w2, q, k, v, lr that require gradients."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(heads, d, m), (heads, m, d), (heads, d, m), *[(heads, tokens, d)] * 3, (3, heads, tokens)]
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    drawn[6] = 0.01 * drawn[6].exp()
    return [value.to(dtype).requires_grad_() for value in drawn]


def _closed(rows: list[Span], steps: int, *values: Tensor, precision: str = "accurate") -> tuple[Tensor, ...]:
    w0, w1, w2, q, k, v, lr = values
    o, weights = ttt_update_apply(FastWeights(w0, w1, w2), q, k, v, lr, rows, steps, precision)
    return o, *weights


def _plain(rows: list[Span], steps: int, *values: Tensor) -> tuple[Tensor, ...]:
    """The same by autograd through the plain formulas."""
    w0, w1, w2, q, k, v, lr = values
    weights, answers = FastWeights(w0, w1, w2), []
    norms = FastWeights(*(column_norms(w.detach()) for w in weights))
    for start, end, update, apply in rows:
        if update:
            lesson = k[:, start:end], v[:, start:end], lr[:, :, start:end]
            weights = reference.update(weights, norms, *lesson, steps)
        if apply:
            answers.append(reference.apply(weights, q[:, start:end]))
    return torch.cat(answers, dim=1), *weights


def _gradients(values: list[Tensor], results: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(9)
    factors = [torch.randn(r.shape, generator=generator, dtype=torch.float64).to(r.dtype) for r in results]
    loss = torch.stack([(r * factor).sum() for r, factor in zip(results, factors, strict=True)]).sum()
    return torch.autograd.grad(loss, values)


@pytest.mark.parametrize("steps", [0, 2, 5])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_those_of_finite_differences(shape: str, steps: int) -> None:
    *values, lr = _inputs(*SHAPES[shape], tokens=6, heads=1)
    values.append((lr.detach() * 100).requires_grad_())  # of order 1, or finite differences in them are coarse
    norms = [column_norms(w.detach()) for w in values[:3]]  # constants: differences must not move them

    def updated(*given: Tensor) -> tuple[Tensor, ...]:
        w0, w1, w2, _, k, v, lr = given
        return closed_form.Update.apply(w0, w1, w2, *norms, k, v, lr, steps, None)

    assert torch.autograd.gradcheck(updated, values, atol=1e-6, rtol=1e-4)
    answered = partial(closed_form.Apply.apply, *values[:3])
    assert torch.autograd.gradcheck(lambda q: answered(q, None), values[3:4])
    assert torch.autograd.gradcheck(lambda *w: closed_form.Apply.apply(*w, values[3].detach(), None), values[:3])


@pytest.mark.parametrize("steps", [0, 2, 5])
@pytest.mark.parametrize("rows", [LEARN_THEN_ANSWER, LEARN_TWICE], ids=["once", "twice"])
@pytest.mark.parametrize("shape", SHAPES)
def test_results_and_gradients_are_those_of_autograd(shape: str, rows: list[Span], steps: int) -> None:
    values = _inputs(*SHAPES[shape])
    ours, theirs = _closed(rows, steps, *values), _plain(rows, steps, *values)
    both = zip((*ours, *_gradients(values, ours)), (*theirs, *_gradients(values, theirs)), strict=True)
    for one, other in both:
        torch.testing.assert_close(one, other, atol=1e-11, rtol=1e-9)


def test_legs_of_tokens_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = _inputs(3, 5, tokens=11)
    rows = [Span(0, 10, True, True), Span(10, 11, False, True)]
    whole = _closed(rows, 5, *values)
    expected = (*whole, *_gradients(values, whole))
    monkeypatch.setitem(closed_form.LEG, "cpu", 3 * 2 * 5)  # three tokens at a time
    legs = _closed(rows, 5, *values)
    for one, other in zip((*legs, *_gradients(values, legs)), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-11, rtol=1e-9)


def test_a_common_factor_on_all_rates_of_a_head_changes_nothing() -> None:
    values = _inputs(4, 8, tokens=24)
    results = _closed([Span(0, 24, True, True)], 5, *values)
    faster = [*values[:6], values[6].detach() * torch.tensor([3.0, 0.2])[None, :, None]]
    for one, other in zip(results, _closed([Span(0, 24, True, True)], 5, *faster), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)  # eps 1e-7 beside the norm of a gradient
    *_, rate = _gradients(values, results)
    moved = (values[6] * rate).sum(-1)
    assert (moved.abs() < 1e-5 * (values[6] * rate).abs().sum(-1)).all()


@pytest.mark.parametrize("shape", SHAPES.values())
def test_no_gradient_along_what_normalisation_takes_away(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(1)
    g, cotangent = torch.randn(2, 3, *shape, generator=generator, dtype=torch.float64)
    bar = newton_schulz_backward(g, iterates(g, 5), cotangent)
    assert ((bar * g).sum((-2, -1)).abs() < 1e-6 * bar.norm(dim=(-2, -1)) * g.norm(dim=(-2, -1))).all()
    w, norm = torch.randn_like(g), column_norms(g)
    x = newton_schulz(g, 5)
    direct, z = closed_form.moved_backward(w, x, norm, cotangent), w + x
    assert ((direct * z).sum(1).abs() < 1e-4 * (direct.norm(dim=1) * z.norm(dim=1))).all()


def test_newton_schulz_flattens_singular_values() -> None:
    g = torch.randn(2, 16, 48, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    values = torch.linalg.svdvals(newton_schulz(g, 5))
    assert values.min() > 0.6 and values.max() < 1.25
    assert torch.linalg.svdvals(newton_schulz(g, 0)).max() < 0.6
    torch.testing.assert_close(newton_schulz(g.mT, 5), newton_schulz(g, 5).mT)


def test_columns_keep_their_norms() -> None:
    values = _inputs(4, 8, tokens=16)
    _, *weights = _closed([Span(0, 16, True, True)], 5, *values)
    for before, after in zip(values[:3], weights, strict=True):
        torch.testing.assert_close(column_norms(after), column_norms(before), atol=0, rtol=1e-4)


def test_nothing_to_learn_is_no_error() -> None:
    values = _inputs(4, 8)
    silent = [*values[:6], torch.zeros_like(values[6]).requires_grad_()]
    results = _closed(LEARN_THEN_ANSWER, 5, *silent)
    torch.testing.assert_close(results[1], values[0], atol=1e-4, rtol=1e-4)
    assert all(gradient.isfinite().all() for gradient in _gradients(silent, results))


def _kept(run: Callable[[], object]) -> int:
    """Bytes of different tensors that autograd keeps for the backward pass."""
    sizes: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        held.append(value)  # alive until the end: addresses are not given twice
        return value

    held: list[Tensor] = []
    with saved_tensors_hooks(keep, lambda value: value):
        run()
    return sum(sizes.values())


def test_at_most_half_of_what_autograd_keeps() -> None:
    values = _inputs(16, 32, tokens=256, heads=1, dtype=torch.float32)
    rows = [Span(0, 128, True, False), Span(0, 256, False, True)]
    ours, theirs = _kept(lambda: _closed(rows, 5, *values)), _kept(lambda: _plain(rows, 5, *values))
    inputs = sum(value.nbytes for value in values)
    assert ours <= theirs / 2
    assert ours <= inputs + 3 * sum(w.nbytes for w in values[:3])  # gradients and the weights that answer


def _errors(precision: str, autocast: bool) -> Tensor:
    """Relative distances to float64 of answers, weights and gradients in one of the precisions."""
    exact = [value.detach().double().requires_grad_() for value in _inputs(48, 96, 384, 1, dtype=torch.float32)]
    values = [value.detach().float().requires_grad_() for value in exact]
    rows = [Span(0, 256, True, False), Span(0, 384, False, True)]
    truth = _plain(rows, 5, *exact)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        results = _closed(rows, 5, *values, precision=precision)
    ours = (*results, *_gradients(values, tuple(r.float() for r in results)))
    pairs = zip(ours, (*truth, *_gradients(exact, truth)), strict=True)
    return torch.stack([(one.double() - other).norm() / other.norm() for one, other in pairs])


@pytest.mark.parametrize("autocast", [False, True], ids=["inference", "training"])
def test_the_default_is_nearer_to_float64_than_the_reference(autocast: bool) -> None:
    ours, theirs = _errors("accurate", autocast), _errors("reference", autocast)
    assert (ours < theirs).all(), (ours, theirs)
    assert ours.mean() < (0.7 if autocast else 0.001) * theirs.mean()


def test_a_row_beyond_the_tokens_is_refused() -> None:
    values = _inputs(3, 5)
    for rows in ([Span(0, 9, False, True)], [Span(4, 4, True, False)], [Span(-1, 3, True, True)]):
        with pytest.raises(ValueError, match="of 8 queries and 8 keys"):
            _closed(rows, 5, *values)
