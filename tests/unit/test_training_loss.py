"""The loss of models that predict Gaussians: coarser predictions, PM-Loss, and the rules of its trainer. The training
loss: its terms by hand, the files it needs and those it does not."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, relu

from novelview.config.compose import compose
from novelview.config.schema import LossConfig, PointmapLossConfig
from novelview.errors import CheckpointError, ConfigError, DataError
from novelview.losses.lpips import load_lpips
from novelview.losses.photometric import (
    MATCONVNET_LAYERS,
    MEAN,
    PerceptualLoss,
    PhotometricLoss,
    TrainingLoss,
    Weights,
    filtered_mse,
    read_matconvnet,
    shapes,
)
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


ABSENT = "no/such/file"


def synthetic_vgg(scale: float = 1.0) -> Weights:
    generator = torch.Generator().manual_seed(0)
    weights = []
    for before, after in shapes():
        noise = torch.randn(after, before, 3, 3, generator=generator)
        weights.append((scale * noise * (2 / (9 * before)) ** 0.5, 0.1 * torch.randn(after, generator=generator)))
    return weights


def pictures(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(*shape, generator=generator), torch.rand(*shape, generator=generator)


def save_matconvnet(path: Path, weights: Weights) -> Path:
    """Write weights in the layout of MatConvNet's file: a cell of structs, the third field a cell of two arrays."""
    layers = np.empty((1, 43), dtype=object)
    for index in range(43):
        layers[0, index] = np.array([[("relu", "relu", 0.0)]], dtype=[("name", "O"), ("type", "O"), ("leak", "O")])
    for index, (weight, bias) in zip(MATCONVNET_LAYERS, weights, strict=True):
        arrays = np.empty((1, 2), dtype=object)
        arrays[0, 0], arrays[0, 1] = weight.permute(2, 3, 1, 0).numpy(), bias[None].numpy()
        fields = [("name", "O"), ("type", "O"), ("weights", "O")]
        layers[0, index] = np.array([[("conv", "conv", arrays)]], dtype=fields)
    savemat(path, {"layers": layers})
    return path


def test_mean_squared_error_needs_no_file() -> None:
    render, target = pictures(2, 3, 3, 14, 14)
    render.requires_grad_()
    loss = PhotometricLoss(LossConfig(mse=2.0, perceptual=0.0, lpips=0.0, vgg_weights=ABSENT, lpips_weights=ABSENT))
    values = loss(render, target)
    mse = (render - target).square().mean()
    torch.testing.assert_close(values["mse"], mse)
    torch.testing.assert_close(values["loss"], 2 * mse)
    torch.testing.assert_close(values["psnr"], -10 * mse.detach().log10())
    assert set(values) == {"loss", "mse", "psnr"}
    (gradient,) = torch.autograd.grad(values["loss"], render)
    torch.testing.assert_close(gradient, 4 * (render - target).detach() / render.numel())


def test_a_term_without_its_file_is_one_line() -> None:
    with pytest.raises(CheckpointError, match=f"{ABSENT}: no such file"):
        PhotometricLoss(LossConfig(perceptual=0.5, vgg_weights=ABSENT))
    with pytest.raises(DataError, match=f"{ABSENT}: no such file"):
        PhotometricLoss(LossConfig(perceptual=0.0, lpips=1.0, lpips_weights=ABSENT))


def test_a_loss_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="every weight is 0"):
        PhotometricLoss(LossConfig(mse=0.0, perceptual=0.0, lpips=0.0))


def features(weights: Weights, images: Tensor) -> list[Tensor]:
    """VGG-19's torchvision layout, layer by layer, with average pooling."""
    x = 255 * images - torch.tensor(MEAN).view(3, 1, 1)
    found, convolutions = [x], iter(weights)
    for number, name in enumerate("cc p cc p cccc p cccc p cc".replace(" ", "")):
        x = avg_pool2d(x, 2) if name == "p" else relu(conv2d(x, *next(convolutions), padding=1))
        if number in (1, 4, 7, 12, 17):
            found.append(x)
    return found


def test_the_perceptual_loss_by_hand() -> None:
    weights, (render, target) = synthetic_vgg(), pictures(2, 3, 32, 32)
    pairs = zip(features(weights, render), features(weights, target), strict=True)
    means = [(one - other).abs().mean() for one, other in pairs]
    factors = (1, 1 / 2.6, 1 / 4.8, 1 / 3.7, 1 / 5.6, 10 / 1.5)
    expected = sum(mean * factor for mean, factor in zip(means, factors, strict=True)) / 255
    loss = PerceptualLoss(weights)
    torch.testing.assert_close(loss(render, target), expected)
    assert loss(target, target) == 0
    assert not loss.state_dict(), "nothing of it belongs in a checkpoint"
    assert not list(loss.parameters()), "nothing of it is trained"


def test_matconvnet_weights_are_read_and_weighed(tmp_path: Path) -> None:
    weights, (render, target) = synthetic_vgg(), pictures(1, 2, 3, 32, 32)
    path = save_matconvnet(tmp_path / "vgg.mat", weights)
    for found, true in zip(read_matconvnet(path), weights, strict=True):
        assert torch.equal(found[0], true[0]) and torch.equal(found[1], true[1])
    values = PhotometricLoss(LossConfig(perceptual=0.5, vgg_weights=str(path)))(render, target)
    torch.testing.assert_close(values["perceptual"], PerceptualLoss(weights)(render[0], target[0]))
    torch.testing.assert_close(values["loss"], values["mse"] + 0.5 * values["perceptual"])


@pytest.mark.parametrize("content", [b"", b"not a matlab file", b"MATLAB 5.0 MAT-file" + bytes(200)])
def test_a_damaged_matconvnet_file_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "vgg.mat").write_bytes(content)
    with pytest.raises(CheckpointError, match="not MatConvNet's VGG-19") as caught:
        read_matconvnet(tmp_path / "vgg.mat")
    assert "\n" not in str(caught.value)


def test_another_network_is_refused(tmp_path: Path) -> None:
    narrow = [(weight[:2, :1].clone(), bias[:2]) for weight, bias in synthetic_vgg()]
    with pytest.raises(CheckpointError, match="not VGG-19's"):
        read_matconvnet(save_matconvnet(tmp_path / "small.mat", narrow))


def test_lpips_refuses_another_file(tmp_path: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "vgg.pth")
    with pytest.raises(DataError, match="not torchvision's VGG-16"):
        load_lpips(tmp_path / "vgg.pth")


def test_equal_pictures_have_an_infinite_psnr_and_no_loss() -> None:
    image, _ = pictures(1, 1, 3, 14, 14)
    values = PhotometricLoss(LossConfig(perceptual=0.0))(image, image)
    assert values["loss"] == 0 and values["psnr"] == math.inf
