"""Maps at finer resolutions by learnt upsampling (specs/depthsplat.md sections 3, 4 and 12)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class FeaturePyramid(nn.Module):
    """One map at 1, 2, 4 ... times its resolution, with 1, 1/2, 1/4 ... of its channels; the first is itself."""

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList([_stage(channels, level) for level in range(levels)])

    def forward(self, x: Float[Tensor, "n c h w"]) -> list[Float[Tensor, "n d k l"]]:
        """Return the maps, coarsest first."""
        return [stage(x) for stage in self.stages]


def _stage(channels: int, doublings: int) -> nn.Sequential:
    stage = nn.Sequential()
    for _ in range(doublings):
        stage.append(nn.ConvTranspose2d(channels, channels // 2, 2, 2))
        stage.append(nn.GELU())
        channels //= 2
    if doublings:
        stage.append(nn.Conv2d(channels, channels, 3, padding=1))
    return stage


class ResizeUpsampler(nn.Module):
    """Features at full size from those of every scale: resized and convolved until they fit, then joined.

    inner: channels of each scale; doublings: how often each scale is doubled; out: channels over all scales.
    """

    def __init__(self, inner: Sequence[int], doublings: Sequence[int], out: int) -> None:
        super().__init__()
        pairs = zip(inner, doublings, strict=True)
        self.upsampler = nn.ModuleList([_resizing(width, count, out // len(inner)) for width, count in pairs])

    def forward(self, features: Sequence[Float[Tensor, "n c h w"]]) -> Float[Tensor, "n d k l"]:
        """Return the joined maps at full size."""
        return torch.cat([up(x) for up, x in zip(self.upsampler, features, strict=True)], dim=1)


def _resizing(inner: int, doublings: int, out: int) -> nn.Sequential:
    width = 2 * out * (doublings - 1)
    steps = nn.Sequential(nn.Conv2d(inner, width, 1))
    for step in range(doublings):
        half = max(width // 2, out)
        steps.append(nn.Upsample(scale_factor=2, mode="nearest"))
        steps.append(nn.Conv2d(width, half, 3, padding=1, padding_mode="replicate"))
        if step < doublings - 1:
            steps.append(nn.GELU())
        width = half
    return steps
