"""Convolutional features of single views at three resolutions (specs/depthsplat.md section 2)."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

LAYERS = 3


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with instance norm; the shortcut is projected where the shape changes."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.norm = nn.InstanceNorm2d(outer)
        self.downsample = nn.Sequential()
        if stride != 1 or inner != outer:
            self.downsample = nn.Sequential(nn.Conv2d(inner, outer, 1, stride), nn.InstanceNorm2d(outer))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d k l"]:
        """Return the rectified sum of both ways."""
        y = self.norm(self.conv1(x)).relu()
        y = self.norm(self.conv2(y)).relu()
        return (self.downsample(x) + y).relu()


class Backbone(nn.Module):
    """Three residual layers behind a strided 7x7 convolution; parameters have the published names.

    channels: of the three layers; out: of the coarsest map; lowest: image side over that of the coarsest map, 4 or 8.
    """

    def __init__(self, channels: Sequence[int], out: int, lowest: int) -> None:
        super().__init__()
        first, second, third = channels
        self.conv1 = nn.Conv2d(3, first, 7, 2, 3, bias=False)
        self.norm = nn.InstanceNorm2d(first)
        self.layer1 = _layer(first, first, 1)
        self.layer2 = _layer(first, second, 2 if lowest == 8 else 1)
        self.layer3 = _layer(second, third, 2)
        self.conv2 = nn.Conv2d(third, out, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> list[Float[Tensor, "n c k l"]]:
        """Return the maps of ImageNet-normalised images, coarsest first."""
        high = self.layer1(self.norm(self.conv1(images)).relu())
        middle = self.layer2(high)
        return [self.conv2(self.layer3(middle)), middle, high]


def _layer(inner: int, outer: int, stride: int) -> nn.Sequential:
    return nn.Sequential(ResidualBlock(inner, outer, stride), ResidualBlock(outer, outer, 1))
