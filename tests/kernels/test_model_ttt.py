"""LaCT with its fast weights in our kernels, interpreted, and in PyTorch: equally near float64."""

import pytest
import torch
from torch import Tensor

from novelview.config.models import LaCTConfig, TTTConfig
from novelview.models.lact import LaCT
from novelview.models.ttt import FastWeights, Span, ttt_update_apply
from novelview.scenes.batch import Views
from novelview_kernels import backend

ROWS = [Span(0, 20, True, True), Span(20, 33, True, False), Span(20, 40, False, True)]
SIZE = 16


def _operation(mode: str, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 32, 48), (2, 48, 32), (2, 32, 48), *[(2, 40, 32)] * 3, (3, 2, 40)]
    *values, lr = (torch.randn(shape, generator=generator) for shape in shapes)
    drawn = [*(value * value.shape[1] ** -0.5 for value in values[:3]), *values[3:], 0.01 * lr.exp()]
    leaves = [value.to(dtype).requires_grad_() for value in drawn]
    w0, w1, w2, q, k, v, rates = leaves
    with backend.use(mode):
        answers, weights = ttt_update_apply(FastWeights(w0, w1, w2), q, k, v, rates, ROWS)
        results = [answers, *weights]
        loss = torch.stack([result.square().sum() for result in results]).sum()
        return [*(result.detach() for result in results), *torch.autograd.grad(loss, leaves)]


def _views(count: int, dtype: torch.dtype) -> Views:
    generator = torch.Generator().manual_seed(count)
    c2w = torch.eye(4).repeat(1, count, 1, 1)
    c2w[..., :3, 3] = 0.3 * torch.randn(1, count, 3, generator=generator)
    lenses = torch.tensor([float(SIZE), SIZE, SIZE / 2, SIZE / 2]).expand(1, count, 4)
    images = torch.rand(1, count, 3, SIZE, SIZE, generator=generator)
    return Views(images.to(dtype), c2w.to(dtype), lenses.to(dtype))


def _model(mode: str, dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    model = LaCT(LaCTConfig(d=32, d_head=16, n_layer=2, ttt=TTTConfig(d_head=32), init_gain=3.0)).to(dtype)
    with backend.use(mode):
        images = model(_views(3, dtype), _views(2, dtype)).images
        return [images.detach(), *torch.autograd.grad(images.square().sum(), list(model.parameters()))]


@pytest.mark.parametrize("run", [_operation, _model])
def test_kernels_are_as_near_to_float64_as_the_closed_form(run, monkeypatch: pytest.MonkeyPatch) -> None:
    exact, plain = run("torch", torch.float64), run("torch", torch.float32)
    seen: list[str] = []
    monkeypatch.setattr(backend, "say_once", seen.append)
    for ours, theirs, truth in zip(run("interpret", torch.float32), plain, exact, strict=True):
        allowed = max(1e-5 * float(truth.norm()), 2 * float((theirs - truth).norm()))
        assert float((ours - truth).norm()) <= allowed
    assert {line.split(":")[0] for line in seen} >= {"ttt_update", "ttt_apply"}
