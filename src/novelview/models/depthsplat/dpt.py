"""Dense prediction heads: a residual of inverse depth, or features, at full size (specs/depthsplat.md section 7)."""

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

OUT_HIDDEN = 16


def resized(x: Float[Tensor, "n c h w"], height: int, width: int) -> Float[Tensor, "n c k l"]:
    """Resize bilinearly with corners aligned."""
    return interpolate(x, size=(height, width), mode="bilinear", align_corners=True)


class ResidualUnit(nn.Module):
    """Rectify, convolve, twice, and add."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Transform a map."""
        return x + self.conv2(self.conv1(x.relu()).relu())


class Fusion(nn.Module):
    """Add a finer map to a coarser one already fused, and resize; the coarsest has nothing to be added to."""

    def __init__(self, channels: int, first: bool) -> None:
        super().__init__()
        if not first:
            self.resConfUnit1 = ResidualUnit(channels)
        self.resConfUnit2 = ResidualUnit(channels)
        self.out_conv = nn.Conv2d(channels, channels, 1)

    def forward(
        self, x: Float[Tensor, "n c h w"], skip: Float[Tensor, "n c h w"] | None, height: int, width: int
    ) -> Float[Tensor, "n c k l"]:
        """Return the fused map at the next resolution."""
        if skip is not None:
            x = x + self.resConfUnit1(skip)
        return self.out_conv(resized(self.resConfUnit2(x), height, width))


class DPTHead(nn.Module):
    """Fuses four maps of the vision transformer with those of CNN, matching and, with `depth`, the inverse depth.

    inner: channels of the transformer; cnn, mv: channels of the other maps, coarsest first; out_channels: of the four
    maps; features: width of the fusion; factor: full size over that of the finest matching features. Returns a map of
    `features` channels at full size, or with `depth` one channel.
    """

    def __init__(
        self,
        inner: int,
        out_channels: Sequence[int],
        features: int,
        cnn: Sequence[int],
        mv: Sequence[int],
        factor: int,
        depth: bool,
    ) -> None:
        super().__init__()
        self.factor, self.depth = factor, depth
        self.projects = nn.ModuleList([nn.Conv2d(inner, width, 1) for width in out_channels])
        one, two, _, four = out_channels
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(one, one, 4, 4),
                nn.ConvTranspose2d(two, two, 2, 2),
                nn.Identity(),
                nn.Conv2d(four, four, 3, 2, 1),
            ]
        )
        extra = self._assigned(list(cnn), list(mv), [1] if depth else [])
        widths = zip(extra, out_channels, strict=False)
        self.concat_projects = nn.ModuleList(
            [nn.Conv2d(sum(before) + width + sum(after), width, 1) for (before, after), width in widths]
        )
        self.scratch = self._scratch(out_channels, features)

    def _scratch(self, out_channels: Sequence[int], features: int) -> nn.Module:
        scratch = nn.Module()
        for number, width in enumerate(out_channels, 1):
            scratch.add_module(f"layer{number}_rn", nn.Conv2d(width, features, 3, padding=1, bias=False))
            scratch.add_module(f"refinenet{number}", Fusion(features, number == len(out_channels)))
        if self.depth:
            half = features // 2
            last = nn.Conv2d(OUT_HIDDEN, 1, 1)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(cast(Tensor, last.bias))
            steps = (_replicate(features, half), nn.GELU(), _replicate(half, OUT_HIDDEN), nn.GELU(), last)
            scratch.add_module("output_conv", nn.Sequential(*steps))
        return scratch

    def _assigned(self, cnn: list, mv: list, depth: list) -> list[tuple[list, list]]:
        """Return what is put before and after the three finest maps, of lists coarsest first.

        The finest matching features, and the depth, are at half size with factor 2 and at a quarter with factor 4.
        """
        low, middle, high = cnn
        if self.factor == 2:
            return [([high, middle, mv[1], *depth], []), ([low], [mv[0]]), ([], [])]
        if len(mv) == 1:
            return [([high, middle], []), ([low], [mv[0], *depth]), ([], [])]
        return [([high], []), ([middle], [mv[1], *depth]), ([low], [mv[0]])]

    def forward(
        self,
        mono: Sequence[Float[Tensor, "n c h w"]],
        cnn: Sequence[Float[Tensor, "n d k l"]],
        mv: Sequence[Float[Tensor, "n e p q"]],
        depth: Float[Tensor, "n 1 p q"] | None = None,
    ) -> Float[Tensor, "n f y x"]:
        """Return the map at full size; mono: four maps at an eighth; cnn and mv coarsest first."""
        maps = [resize(project(x)) for resize, project, x in zip(self.resize_layers, self.projects, mono, strict=True)]
        extra = self._assigned(list(cnn), list(mv), [] if depth is None else [depth])
        for number, (before, after) in enumerate(extra):
            maps[number] = self.concat_projects[number](torch.cat([*before, maps[number], *after], dim=1))
        scratch = self.scratch
        maps = [scratch.get_submodule(f"layer{number}_rn")(x) for number, x in enumerate(maps, 1)]
        x, skip = maps[3], None
        for number in (4, 3, 2, 1):
            height, width = maps[number - 2].shape[-2:] if number > 1 else [2 * side for side in maps[0].shape[-2:]]
            skip = None if number == 4 else maps[number - 1]
            x = scratch.get_submodule(f"refinenet{number}")(x, skip, height, width)
        return scratch.get_submodule("output_conv")(x) if self.depth else x


def _replicate(inner: int, outer: int) -> nn.Conv2d:
    return nn.Conv2d(inner, outer, 3, padding=1, padding_mode="replicate")
