"""The loss of models that predict Gaussians: coarser predictions, PM-Loss, and the rules of its trainer."""

import pytest
import torch
from torch import nn

from novelview.config.compose import compose
from novelview.config.schema import LossConfig, PointmapLossConfig
from novelview.errors import ConfigError, DataError
from novelview.losses.photometric import TrainingLoss, filtered_mse
from novelview.models.render import Render
from novelview.scenes.batch import Batch, Views

PLAIN = {"perceptual": 0.0}


class Distance(nn.Module):
    """Stands for LPIPS, whose weights are not here."""

    def forward(self, render: torch.Tensor, target: torch.Tensor, normalize: bool) -> torch.Tensor:
        return (render - target).abs().mean(dim=(1, 2, 3))


def views(count: int, value: float, points: torch.Tensor | None = None) -> Views:
    images = torch.full((1, count, 3, 4, 6), value)
    return Views(images, torch.eye(4).expand(1, count, 4, 4), torch.ones(1, count, 4), None, points)


def batch(points: torch.Tensor | None = None) -> Batch:
    return Batch(["a"], views(2, 0.2, points), views(3, 0.5))


def render(value: float, **extras: torch.Tensor) -> Render:
    return Render(torch.full((1, 3, 3, 4, 6), value), extras)


def scattered(seed: int) -> torch.Tensor:
    return torch.randn(1, 48, 3, generator=torch.Generator().manual_seed(seed))


def as_points(cloud: torch.Tensor) -> torch.Tensor:
    return cloud.unflatten(1, (2, 4, 6)).movedim(-1, 2)


def test_without_extras_the_loss_is_the_photometric_one() -> None:
    loss = TrainingLoss(LossConfig(**PLAIN))
    values, own = loss(render(0.75), batch()), loss.photometric(render(0.75).images, batch().target.images)
    assert values.keys() == own.keys() == {"loss", "mse", "psnr"}
    assert all(torch.equal(values[name], own[name]) for name in own)


def test_coarser_predictions_weigh_powers_of_nine_tenths() -> None:
    coarse = torch.stack([render(0.7).images, render(0.6).images])
    values = TrainingLoss(LossConfig(**PLAIN))(render(0.55, intermediate=coarse), batch())
    assert float(values["intermediate"]) == pytest.approx(0.81 * 0.04 + 0.9 * 0.01, rel=1e-5)
    assert float(values["loss"]) == pytest.approx(0.0025 + 0.81 * 0.04 + 0.9 * 0.01, rel=1e-5)
    assert float(values["mse"]) == pytest.approx(0.0025, rel=1e-5)


def test_large_squared_errors_may_be_left_out() -> None:
    target = torch.zeros(4)
    assert float(filtered_mse(torch.tensor([0.1, 0.3, 0.9, 0.5]), target, 0.2)) == pytest.approx((0.01 + 0.09) / 2)
    assert float(filtered_mse(torch.ones(4), target, 0.2)) == 0.0
    values = TrainingLoss(LossConfig(**PLAIN, ignore_large_mse=0.02))(render(0.65), batch())
    assert float(values["loss"]) == 0.0 and float(values["mse"]) == pytest.approx(0.0225, rel=1e-5)


def test_the_damping_rule_waits_and_looks_at_the_final_renders_alone() -> None:
    coarse = render(1.5).images[None]
    loss = TrainingLoss(LossConfig(**PLAIN, damp_above=0.1))
    found = {}
    for step in (300, 301):
        loss.step = step
        found[step] = [float(loss(render(value, intermediate=coarse), batch())["loss"]) for value in (0.6, 0.9)]
    assert found[300] == pytest.approx([0.01 + 0.9, 0.16 + 0.9], rel=1e-5)
    assert found[301] == pytest.approx([0.01 + 0.9, (0.16 + 0.9) * 1e-8], rel=1e-5)


def test_the_stale_variable_adds_lpips_of_the_last_coarse_prediction_again(monkeypatch) -> None:
    monkeypatch.setattr("novelview.losses.photometric.load_lpips", lambda path: Distance())
    coarse = torch.stack([render(0.7).images, render(0.6).images])
    given = render(0.5, intermediate=coarse, means=scattered(0))
    found = []
    for stale in (False, True):
        cfg = LossConfig(**PLAIN, lpips=0.05, stale_lpips=stale, pointmap=PointmapLossConfig(weight=0.005))
        found.append(float(TrainingLoss(cfg)(given, batch(as_points(scattered(1))))["intermediate"]))
    assert found[1] - found[0] == pytest.approx((0.81 + 0.9) * 0.05 * 0.1, rel=1e-4)


def test_pm_loss_joins_at_its_step_and_is_logged() -> None:
    cfg = LossConfig(**PLAIN, pointmap=PointmapLossConfig(weight=0.005, apply_after=7))
    loss, means = TrainingLoss(cfg), scattered(0).requires_grad_()
    assert loss.logged == ("pointmap",)
    loss.step = 6
    assert float(loss(render(0.5, means=means), batch(as_points(scattered(1))))["pointmap"]) == 0.0
    loss.step = 7
    values = loss(render(0.5, means=means), batch(as_points(scattered(1))))
    assert float(values["pointmap"]) > 0
    assert float(values["loss"]) == pytest.approx(0.005 * float(values["pointmap"]))
    values["loss"].backward()
    assert means.grad is not None and means.grad.abs().sum() > 0


def test_pm_loss_is_nothing_for_a_moved_turned_and_scaled_teacher() -> None:
    means = scattered(3)
    turn = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    teacher = 0.25 * means @ turn.T + torch.tensor([4.0, -2.0, 1.0])
    loss = TrainingLoss(LossConfig(**PLAIN, pointmap=PointmapLossConfig(weight=1.0)))
    assert float(loss(render(0.5, means=means), batch(as_points(teacher)))["pointmap"]) < 1e-8


def test_pm_loss_without_its_inputs_says_what_is_missing() -> None:
    loss = TrainingLoss(LossConfig(**PLAIN, pointmap=PointmapLossConfig(weight=0.005)))
    with pytest.raises(DataError, match="predicts no Gaussians"):
        loss(render(0.5), batch(as_points(scattered(1))))
    with pytest.raises(DataError, match=r"io\.pointmaps"):
        loss(render(0.5, means=scattered(0)), batch())
    with pytest.raises(DataError, match="40 Gaussians a scene for 48 pixels"):
        loss(render(0.5, means=scattered(0)[:, :40]), batch(as_points(scattered(1))))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("train.losses.pointmap.teacher=oracle", "choose one of exact, vggt"),
        ("train.losses.pointmap.weight=-1", "must be 0 or more"),
        ("train.losses.pointmap.ignore_large=0", "must be greater than 0"),
        ("train.losses.intermediate_decay=1.5", "must lie between 0 and 1"),
        ("train.decay=some", "choose one of matrices, all"),
        ("train.onecycle_rise=2", "must lie between 0 and 1"),
    ],
)
def test_values_out_of_range_are_refused(word, message) -> None:
    with pytest.raises(ConfigError, match=message):
        compose("train", ["model=ptlvsm", word])
