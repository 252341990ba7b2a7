"""Dense prediction transformer heads (DPT) of DepthSplat (specs/depthsplat.md section 7) and VGGT (specs/vggt.md)."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

OUT_HIDDEN = 16
CONFIDENT_HIDDEN = 32
POSITION_SHARE = 0.1
POSITION_BASE = 100.0


def resized(x: Float[Tensor, "n c h w"], height: int, width: int) -> Float[Tensor, "n c k l"]:
    """Resize bilinearly with corners aligned."""
    return interpolate(x, size=(height, width), mode="bilinear", align_corners=True)


replicate_conv = partial(nn.Conv2d, kernel_size=3, padding=1, padding_mode="replicate")  # repeats the edge


def replicate_head(inner: int, hidden: int, outer: int) -> nn.Sequential:
    """Return two such convolutions with GELU in between."""
    return nn.Sequential(replicate_conv(inner, hidden), nn.GELU(), replicate_conv(hidden, outer))


def zeroed(layer: nn.Module) -> nn.Module:
    """Set weight and bias of a layer to 0."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class ResidualUnit(nn.Module):
    """Rectify, convolve, twice, and add to the input; `rectified`: to the rectified input, as VGGT does."""

    def __init__(self, channels: int, rectified: bool) -> None:
        super().__init__()
        self.rectified = rectified
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        positive = x.relu()
        return (positive if self.rectified else x) + self.conv2(self.conv1(positive).relu())


class Fusion(nn.Module):
    """Add a finer map to a coarser one already fused, and resize; the coarsest has nothing to be added to."""

    def __init__(self, channels: int, coarsest: bool, rectified: bool) -> None:
        super().__init__()
        if not coarsest:
            self.resConfUnit1 = ResidualUnit(channels, rectified)
        self.resConfUnit2 = ResidualUnit(channels, rectified)
        self.out_conv = nn.Conv2d(channels, channels, 1)

    def forward(
        self, x: Float[Tensor, "n c h w"], finer: Float[Tensor, "n c h w"] | None, size: Sequence[int]
    ) -> Float[Tensor, "n c k l"]:
        if finer is not None:
            x = x + self.resConfUnit1(finer)
        return self.out_conv(resized(self.resConfUnit2(x), *size))


class Scratch(nn.Module):
    """Fuses four maps, finest first, into one of twice the finest's size; parameters have the published names."""

    def __init__(self, widths: Sequence[int], features: int, rectified: bool) -> None:
        super().__init__()
        for number, width in enumerate(widths, 1):
            self.add_module(f"layer{number}_rn", nn.Conv2d(width, features, 3, padding=1, bias=False))
            self.add_module(f"refinenet{number}", Fusion(features, number == len(widths), rectified))

    def forward(self, maps: Sequence[Tensor]) -> Float[Tensor, "n c h w"]:
        maps = [self.get_submodule(f"layer{number}_rn")(x) for number, x in enumerate(maps, 1)]
        sizes = [[2 * side for side in maps[0].shape[-2:]], *(x.shape[-2:] for x in maps[:-1])]
        x = self.get_submodule("refinenet4")(maps[3], None, sizes[3])
        for number in (3, 2, 1):
            x = self.get_submodule(f"refinenet{number}")(x, maps[number - 1], sizes[number - 1])
        return x


def _resize_layers(widths: Sequence[int]) -> nn.ModuleList:
    """Return what brings four maps of one size to 4, 2, 1 and 1/2 times that size."""
    one, two, _, four = widths
    doubling = nn.ConvTranspose2d(one, one, 4, 4), nn.ConvTranspose2d(two, two, 2, 2)
    return nn.ModuleList([*doubling, nn.Identity(), nn.Conv2d(four, four, 3, 2, 1)])


class DepthSplatDPT(nn.Module):
    """Fuses four maps of the vision transformer with those of CNN, matching and, with `depth`, the inverse depth.

    inner: channels of the transformer; cnn, mv: channels of the other maps, coarsest first; out_channels: of the four
    maps; features: width of the fusion; factor: full size over that of the finest matching features."""

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
        self.resize_layers = _resize_layers(out_channels)
        self.concat_projects = nn.ModuleList()
        for width, (before, after) in zip(out_channels, self._assigned([*cnn], [*mv], [1] * depth), strict=False):
            self.concat_projects.append(nn.Conv2d(sum(before) + width + sum(after), width, 1))
        self.scratch = Scratch(out_channels, features, rectified=False)
        if depth:
            last = zeroed(nn.Conv2d(OUT_HIDDEN, 1, 1))
            self.scratch.output_conv = replicate_head(features, features // 2, OUT_HIDDEN).extend([nn.GELU(), last])

    def _assigned(self, cnn: list, mv: list, depth: list) -> list[tuple[list, list]]:
        """Return what is put before and after the three finest maps, of lists coarsest first.

        The finest matching features, and the depth, are at half size with factor 2 and at a quarter with factor 4."""
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
        """Return a map of `features` channels (with `depth` one) at full size; mono: four maps at an eighth."""
        maps = [resize(project(x)) for resize, project, x in zip(self.resize_layers, self.projects, mono, strict=True)]
        extra = self._assigned([*cnn], [*mv], [] if depth is None else [depth])
        for number, (before, after) in enumerate(extra):
            maps[number] = self.concat_projects[number](torch.cat([*before, maps[number], *after], dim=1))
        x = self.scratch(maps)
        return self.scratch.get_submodule("output_conv")(x) if self.depth else x


class VggtDPT(nn.Module):
    """`channels` - 1 values through `activation`, and a confidence 1 + exp(x), for every pixel.

    inner: channels of the tokens; out_channels: of the four maps; features: width of the fusion."""

    def __init__(
        self,
        inner: int,
        out_channels: Sequence[int],
        features: int,
        channels: int,
        patch: int,
        activation: Callable[[Tensor], Tensor],
    ) -> None:
        super().__init__()
        self.patch, self.activation = patch, activation
        self.norm = nn.LayerNorm(inner)
        self.projects = nn.ModuleList([nn.Conv2d(inner, width, 1) for width in out_channels])
        self.resize_layers = _resize_layers(out_channels)
        self.scratch = Scratch(out_channels, features, rectified=True)
        self.scratch.output_conv1 = nn.Conv2d(features, features // 2, 3, padding=1)
        last = nn.Conv2d(CONFIDENT_HIDDEN, channels, 1)
        first = nn.Conv2d(features // 2, CONFIDENT_HIDDEN, 3, padding=1)
        self.scratch.output_conv2 = nn.Sequential(first, nn.ReLU(), last)

    def forward(
        self, layers: Sequence[Float[Tensor, "n t c"]], height: int, width: int
    ) -> tuple[Float[Tensor, "n h w k"], Float[Tensor, "n h w"]]:
        """Return values and confidences of n frames of height x width pixels from the patch tokens of four layers."""
        rows, columns = height // self.patch, width // self.patch
        maps = []
        for tokens, project, resize in zip(layers, self.projects, self.resize_layers, strict=True):
            x = project(self.norm(tokens).mT.unflatten(-1, (rows, columns)))
            maps.append(resize(_placed(x, width / height)))
        fused = self.scratch.get_submodule("output_conv1")(self.scratch(maps))
        x = _placed(resized(fused, height, width), width / height)
        values, confidence = self.scratch.get_submodule("output_conv2")(x).movedim(1, -1).tensor_split([-1], dim=-1)
        return self.activation(values), 1 + confidence.squeeze(-1).exp()


def _placed(x: Float[Tensor, "n c h w"], aspect: float) -> Float[Tensor, "n c h w"]:
    """Add the embedding of every cell's place in a picture of this aspect ratio (width over height).

    Half the channels are for x, half for y, each sines then cosines. Coordinates are those of cell centres in a picture
    whose diagonal is 2 long, the origin in its middle."""
    channels, rows, columns = x.shape[1:]
    diagonal = (aspect**2 + 1) ** 0.5
    axes = (
        torch.linspace(-1, 1, count, dtype=torch.float64, device=x.device) * (span * (count - 1) / count)
        for span, count in ((aspect / diagonal, columns), (1 / diagonal, rows))
    )
    quarter = channels // 4
    omega = POSITION_BASE ** -(torch.arange(quarter, dtype=torch.float64, device=x.device) / quarter)
    across, down = (torch.cat([angle.sin(), angle.cos()]) for angle in (omega[:, None] * axis for axis in axes))
    table = torch.cat([across[:, None].expand(-1, rows, -1), down[:, :, None].expand(-1, -1, columns)])
    return x + POSITION_SHARE * table.to(x.dtype)
