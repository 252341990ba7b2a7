"""The VGG-19 perceptual loss with MatConvNet weights (specs/uplvsm.md section 6)."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, relu

from novelview.errors import CheckpointError

WIDTHS = ((64, 64), (128, 128), (256, 256, 256, 256), (512, 512, 512, 512), (512, 512, 512, 512))
MATCONVNET_LAYERS = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)
TAPS = (1, 3, 5, 9, 13)  # convolutions whose activation is compared: relu1_2, 2_2, 3_2, 4_2, 5_2
POOLED = (2, 4, 8, 12)  # convolutions that follow a pooling
TAP_SCALES = (1 / 2.6, 1 / 4.8, 1 / 3.7, 1 / 5.6, 10 / 1.5)
MEAN = (123.68, 116.779, 103.939)  # RGB, of images in [0,255]

Weights = list[tuple[Tensor, Tensor]]


def shapes() -> list[tuple[int, int]]:
    """Return (input, output) channels of the 16 convolutions."""
    widths = [3, *(width for stage in WIDTHS for width in stage)]
    return list(pairwise(widths))


def read_matconvnet(path: Path | str) -> Weights:
    """Read `imagenet-vgg-verydeep-19.mat`: 16 pairs of weight [out in 3 3] and bias [out], float32.

    Raises CheckpointError for a missing or different file.
    """
    from scipy.io import loadmat

    if not Path(path).is_file():
        raise CheckpointError(
            f"{path}: no such file; fetch vgg19, or set train.losses.perceptual=0 to train without it"
        )
    try:
        layers = loadmat(str(path))["layers"][0]
        weights = [_layer(layers[index]) for index in MATCONVNET_LAYERS]
    except Exception as error:  # scipy fails in many ways on a damaged file
        raise CheckpointError(f"{path}: not MatConvNet's VGG-19 ({type(error).__name__}); fetch it again") from None
    found = [(weight.shape[1], weight.shape[0]) for weight, _ in weights]
    if found != shapes():
        raise CheckpointError(f"{path}: its convolutions are not VGG-19's; fetch imagenet-vgg-verydeep-19.mat")
    return weights


def _layer(layer: Any) -> tuple[Tensor, Tensor]:
    weight, bias = layer[0][0][2][0][0], layer[0][0][2][0][1]
    return torch.from_numpy(weight).permute(3, 2, 0, 1).contiguous().float(), torch.from_numpy(bias).flatten().float()


class PerceptualLoss(nn.Module):
    """Weighted mean absolute differences of images and of five VGG-19 activations; frozen, not part of checkpoints."""

    mean: Tensor

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        for index, (weight, bias) in enumerate(weights):
            self.register_buffer(f"weight{index}", weight, persistent=False)
            self.register_buffer(f"bias{index}", bias, persistent=False)
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)

    def forward(self, render: Float[Tensor, "n 3 h w"], target: Float[Tensor, "n 3 h w"]) -> Float[Tensor, ""]:
        """Return the loss of images in [0,1]."""
        differences = self.differences(render, target)
        terms = [value * scale for value, scale in zip(differences, (1.0, *TAP_SCALES), strict=True)]
        return torch.stack(terms).sum() / 255

    def differences(self, render: Tensor, target: Tensor) -> list[Float[Tensor, ""]]:
        """Return the six mean absolute differences: of the images in [0,255], then of each tapped activation."""
        pairs = zip(self._features(render), self._features(target), strict=True)
        return [(one - other).abs().mean() for one, other in pairs]

    def _features(self, images: Float[Tensor, "n 3 h w"]) -> list[Tensor]:
        x = images * 255 - self.mean
        features = [x]
        for index in range(TAPS[-1] + 1):
            if index in POOLED:
                x = avg_pool2d(x, 2)
            x = relu(conv2d(x, getattr(self, f"weight{index}"), getattr(self, f"bias{index}"), padding=1))
            if index in TAPS:
                features.append(x)
        return features
