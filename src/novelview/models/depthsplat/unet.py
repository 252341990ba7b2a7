"""U-Net over single views whose attention joins the views of a scene (specs/depthsplat.md section 6)."""

from collections.abc import Collection, Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

GROUPS = 8


class ResBlock(nn.Module):
    """GroupNorm, SiLU, convolution, twice; the shortcut is a 1x1 convolution where the width changes."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(GROUPS, inner), nn.SiLU(), nn.Conv2d(inner, outer, 3, padding=1))
        last = _zeroed(nn.Conv2d(outer, outer, 3, padding=1))
        self.out_layers = nn.Sequential(nn.GroupNorm(GROUPS, outer), nn.SiLU(), nn.Identity(), last)
        self.skip_connection = nn.Identity() if inner == outer else nn.Conv2d(inner, outer, 1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h w"]:
        """Transform a map."""
        return self.skip_connection(x) + self.out_layers(self.in_layers(x))


class CrossViewAttention(nn.Module):
    """Self-attention over the pixels of all views of a scene at once, without positions."""

    def __init__(self, channels: int, head_channels: int) -> None:
        super().__init__()
        self.head_channels = head_channels
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = _zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Float[Tensor, "n c h w"], views: int) -> Float[Tensor, "n c h w"]:
        """Attend; n = scenes * views. Recomputed in the backward pass, for its cost grows with (views h w)^2."""
        if torch.is_grad_enabled():
            return x + cast(Tensor, checkpoint(self._message, x, views, use_reentrant=False))
        return x + self._message(x, views)

    def _message(self, x: Float[Tensor, "n c h w"], views: int) -> Float[Tensor, "n c h w"]:
        """Return what the pixels hear; each view is normalised on its own."""
        joined = self.norm(x).unflatten(0, (-1, views)).transpose(1, 2).flatten(2)
        heads = self.qkv(joined).unflatten(1, (-1, 3, self.head_channels)).mT
        q, k, v = heads.unbind(2)
        heard = self.proj_out(scaled_dot_product_attention(q, k, v).mT.flatten(1, 2))
        return heard.unflatten(2, (views, *x.shape[-2:])).transpose(1, 2).flatten(0, 1)


class Down(nn.Module):
    """Halve a map by a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, 2, 1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c k l"]:
        """Halve."""
        return self.op(x)


class Up(nn.Module):
    """Double a map by repeating pixels, then convolve."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c k l"]:
        """Double."""
        return self.conv(interpolate(x, scale_factor=2, mode="nearest"))


class Steps(nn.Sequential):
    """A sequence of which the attention is told the number of views."""

    def forward(self, x: Float[Tensor, "n c h w"], views: int) -> Float[Tensor, "n d k l"]:  # pyright: ignore
        """Apply all steps."""
        for step in self:
            x = step(x, views) if isinstance(step, CrossViewAttention | Steps | UNet) else step(x)
        return x


class UNet(nn.Module):
    """One residual block a level on the way down, two on the way up, as many channels out as in.

    factors: width of every level over `channels`; each level but the first halves the map before. attention: the
    downsampling rates (1, 2, 4 ...) at which views attend to each other; head_channels: width of an attention head.
    Parameters have the published names.
    """

    def __init__(self, channels: int, factors: Sequence[int], attention: Collection[int], head_channels: int) -> None:
        super().__init__()
        self.attention, self.head_channels = set(attention), head_channels
        widths = [channels * factor for factor in factors]
        self.input_blocks = nn.ModuleList([Steps(nn.Conv2d(channels, channels, 3, padding=1))])
        kept = self._downward(channels, widths)
        self.middle_block = nn.Sequential(ResBlock(widths[-1], widths[-1]), nn.Identity(), ResBlock(*widths[-1:] * 2))
        self.output_blocks = nn.ModuleList()
        self._upward(widths, kept)
        last = _zeroed(nn.Conv2d(widths[0], channels, 3, padding=1))
        self.out = nn.Sequential(nn.GroupNorm(GROUPS, widths[0]), nn.SiLU(), last)

    def _downward(self, inner: int, widths: Sequence[int]) -> list[int]:
        kept = [inner]
        for level, width in enumerate(widths):
            self.input_blocks.append(self._level(inner, width, level))
            inner = width
            kept.append(inner)
            if level < len(widths) - 1:
                self.input_blocks.append(Steps(Down(inner)))
                kept.append(inner)
        return kept

    def _upward(self, widths: Sequence[int], kept: list[int]) -> None:
        inner = widths[-1]
        for level in reversed(range(len(widths))):
            for last in (False, True):
                steps = self._level(inner + kept.pop(), widths[level], level)
                inner = widths[level]
                if last and level:
                    steps.append(Up(inner))
                self.output_blocks.append(steps)

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


def regressor(inner: int, channels: int, unet: UNet) -> Steps:
    """Return convolution, GroupNorm, GELU, U-Net, convolution, numbered as published."""
    first, last = nn.Conv2d(inner, channels, 3, padding=1), nn.Conv2d(channels, channels, 3, padding=1)
    return Steps(first, nn.GroupNorm(GROUPS, channels), nn.GELU(), unet, last)


def _zeroed(layer: nn.Conv1d | nn.Conv2d) -> nn.Module:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
