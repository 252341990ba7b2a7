"""The training loss: its terms by hand, the files it needs and those it does not."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, relu

from novelview.config.schema import LossConfig
from novelview.errors import CheckpointError, ConfigError, DataError
from novelview.losses.lpips import load_lpips
from novelview.losses.photometric import (
    MATCONVNET_LAYERS,
    MEAN,
    PerceptualLoss,
    PhotometricLoss,
    Weights,
    read_matconvnet,
    shapes,
)

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
