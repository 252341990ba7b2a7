"""Convolutional networks: features of single views, finer maps of them, a U-Net that joins the views of a scene.

specs/depthsplat.md sections 2 (backbone), 3, 4 and 12 (finer maps), and 6 (U-Net). Parameters have the published names.
"""

from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from novelview.models.dpt import replicate_conv, zeroed

GROUPS = 8


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
        y = self.norm(self.conv1(x)).relu()
        y = self.norm(self.conv2(y)).relu()
        return (self.downsample(x) + y).relu()


class Backbone(nn.Module):
    """Three residual layers behind a strided 7x7 convolution.

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


class FeaturePyramid(nn.Module):
    """One map at 1, 2, 4 ... times its resolution, with 1, 1/2, 1/4 ... of its channels; coarsest, itself, first."""

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList([_stage(channels, level) for level in range(levels)])

    def forward(self, x: Float[Tensor, "n c h w"]) -> list[Float[Tensor, "n d k l"]]:
        return [stage(x) for stage in self.stages]


def _stage(channels: int, doublings: int) -> nn.Sequential:
    stage = nn.Sequential()
    for _ in range(doublings):
        stage.extend([nn.ConvTranspose2d(channels, channels // 2, 2, 2), nn.GELU()])
        channels //= 2
    if doublings:
        stage.append(nn.Conv2d(channels, channels, 3, padding=1))
    return stage


class ResizeUpsampler(nn.Module):
    """Features at full size from those of every scale: resized and convolved until they fit, then joined.

    inner: channels of each scale; doublings: how often each scale is doubled; out: channels over all scales."""

    def __init__(self, inner: Sequence[int], doublings: Sequence[int], out: int) -> None:
        super().__init__()
        pairs = zip(inner, doublings, strict=True)
        self.upsampler = nn.ModuleList([_resizing(width, count, out // len(inner)) for width, count in pairs])

    def forward(self, features: Sequence[Float[Tensor, "n c h w"]]) -> Float[Tensor, "n d k l"]:
        return torch.cat([up(x) for up, x in zip(self.upsampler, features, strict=True)], dim=1)


def _resizing(inner: int, doublings: int, out: int) -> nn.Sequential:
    width = 2 * out * (doublings - 1)
    steps = nn.Sequential(nn.Conv2d(inner, width, 1))
    for step in range(doublings):
        half = max(width // 2, out)
        steps.extend([nn.Upsample(scale_factor=2), replicate_conv(width, half)])
        if step < doublings - 1:
            steps.append(nn.GELU())
        width = half
    return steps


class ResBlock(nn.Module):
    """GroupNorm, SiLU, convolution, twice; the shortcut is a 1x1 convolution where the width changes."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(GROUPS, inner), nn.SiLU(), nn.Conv2d(inner, outer, 3, padding=1))
        last = zeroed(nn.Conv2d(outer, outer, 3, padding=1))
        self.out_layers = nn.Sequential(nn.GroupNorm(GROUPS, outer), nn.SiLU(), nn.Identity(), last)
        self.skip_connection = nn.Identity() if inner == outer else nn.Conv2d(inner, outer, 1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h w"]:
        return self.skip_connection(x) + self.out_layers(self.in_layers(x))


class CrossViewAttention(nn.Module):
    """Self-attention over the pixels of all views of a scene at once, without positions."""

    def __init__(self, channels: int, head_channels: int) -> None:
        super().__init__()
        self.head_channels = head_channels
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Float[Tensor, "n c h w"], views: int) -> Float[Tensor, "n c h w"]:
        """Attend; n = scenes * views. Recomputed in the backward pass, for its cost grows with (views h w)^2."""
        if torch.is_grad_enabled():
            return x + cast(Tensor, checkpoint(self._message, x, views, use_reentrant=False))
        return x + self._message(x, views)

    def _message(self, x: Float[Tensor, "n c h w"], views: int) -> Float[Tensor, "n c h w"]:
        """Return what the pixels hear; each view is normalised on its own."""
        joined = self.norm(x).unflatten(0, (-1, views)).transpose(1, 2).flatten(2)
        q, k, v = self.qkv(joined).unflatten(1, (-1, 3, self.head_channels)).mT.unbind(2)
        heard = self.proj_out(scaled_dot_product_attention(q, k, v).mT.flatten(1, 2))
        return heard.unflatten(2, (views, *x.shape[-2:])).transpose(1, 2).flatten(0, 1)


class Steps(nn.Sequential):
    """A sequence of which the attention is told the number of views."""

    def forward(self, x: Float[Tensor, "n c h w"], views: int) -> Float[Tensor, "n d k l"]:  # pyright: ignore
        for step in self:
            x = step(x, views) if isinstance(step, CrossViewAttention | Steps | UNet) else step(x)
        return x


class UNet(nn.Module):
    """One residual block a level on the way down, two on the way up, as many channels out as in.

    factors: width of every level over `channels`; each level but the first halves the map before. attention: the
    downsampling rates (1, 2, 4 ...) at which views attend to each other; head_channels: width of an attention head."""

    def __init__(self, channels: int, factors: Sequence[int], attention: Collection[int], head_channels: int) -> None:
        super().__init__()
        self.attention, self.head_channels = set(attention), head_channels
        widths = [channels * factor for factor in factors]
        self.input_blocks = nn.ModuleList([Steps(nn.Conv2d(channels, channels, 3, padding=1))])
        kept, inner = [channels], channels
        for level, width in enumerate(widths):
            self.input_blocks.append(self._level(inner, width, level))
            inner = width
            kept.append(inner)
            if level < len(widths) - 1:
                halving = nn.Conv2d(inner, inner, 3, 2, 1)
                self.input_blocks.append(Steps(nn.Sequential(OrderedDict(op=halving))))
                kept.append(inner)
        self.middle_block = nn.Sequential(ResBlock(inner, inner), nn.Identity(), ResBlock(inner, inner))
        self.output_blocks = nn.ModuleList()
        for level in reversed(range(len(widths))):
            for last in (False, True):
                steps = self._level(inner + kept.pop(), widths[level], level)
                inner = widths[level]
                if last and level:
                    repeat, conv = nn.Upsample(scale_factor=2), nn.Conv2d(inner, inner, 3, padding=1)
                    steps.append(nn.Sequential(OrderedDict(repeat=repeat, conv=conv)))
                self.output_blocks.append(steps)
        last = zeroed(nn.Conv2d(widths[0], channels, 3, padding=1))
        self.out = nn.Sequential(nn.GroupNorm(GROUPS, widths[0]), nn.SiLU(), last)

    def _level(self, inner: int, outer: int, level: int) -> Steps:
        steps = Steps(ResBlock(inner, outer))
        if 2**level in self.attention:
            steps.append(CrossViewAttention(outer, min(self.head_channels, outer)))
        return steps

    def forward(self, x: Float[Tensor, "n c h w"], views: int) -> Float[Tensor, "n c h w"]:
        """Transform the maps of n = scenes * views views."""
        kept = []
        for block in self.input_blocks:
            x = block(x, views)
            kept.append(x)
        x = self.middle_block(x)
        for block in self.output_blocks:
            x = block(torch.cat([x, kept.pop()], dim=1), views)
        return self.out(x)


def regressor(inner: int, channels: int, unet: UNet | None) -> Steps:
    """Return convolution, GroupNorm, GELU, U-Net, convolution, numbered as published; without U-Net no norm either."""
    first, last = nn.Conv2d(inner, channels, 3, padding=1), nn.Conv2d(channels, channels, 3, padding=1)
    if unet is None:
        return Steps(first, nn.GELU(), last)
    return Steps(first, nn.GroupNorm(GROUPS, channels), nn.GELU(), unet, last)
