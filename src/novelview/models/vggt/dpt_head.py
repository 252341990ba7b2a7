"""VGGT's dense heads: four layers' tokens fused from coarse to fine into a map with a confidence (DPT)."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

from novelview.config.sources import VGGTConfig

POSITION_SHARE = 0.1
POSITION_BASE = 100.0
HIDDEN = 32


def inverse_log(x: Tensor) -> Tensor:
    """Return sign(x) (exp |x| - 1): coordinates of any size out of moderate numbers."""
    return x.sign() * torch.expm1(x.abs())


class ResidualUnit(nn.Module):
    """Two convolutions, each after a ReLU, added to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Transform a map."""
        x = x.relu()
        return x + self.conv2(self.conv1(x).relu())


class Fusion(nn.Module):
    """Add a finer layer to what came from the coarser ones, and enlarge."""

    def __init__(self, width: int, deepest: bool = False) -> None:
        super().__init__()
        if not deepest:
            self.resConfUnit1 = ResidualUnit(width)
        self.resConfUnit2 = ResidualUnit(width)
        self.out_conv = nn.Conv2d(width, width, 1)

    def forward(
        self, coarse: Float[Tensor, "n c h w"], fine: Float[Tensor, "n c h w"] | None, size: Sequence[int]
    ) -> Float[Tensor, "n c k l"]:
        """Return the fused map at `size` (rows, columns)."""
        x = coarse if fine is None else coarse + self.resConfUnit1(fine)
        return self.out_conv(_resize(self.resConfUnit2(x), size))


class Scratch(nn.Module):
    """The decoder's convolutions under their published names."""

    def __init__(self, widths: Sequence[int], features: int, channels: int) -> None:
        super().__init__()
        for number, width in enumerate(widths, 1):
            setattr(self, f"layer{number}_rn", nn.Conv2d(width, features, 3, padding=1, bias=False))
            setattr(self, f"refinenet{number}", Fusion(features, deepest=number == len(widths)))
        self.output_conv1 = nn.Conv2d(features, features // 2, 3, padding=1)
        last = nn.Conv2d(HIDDEN, channels, 1)
        self.output_conv2 = nn.Sequential(nn.Conv2d(features // 2, HIDDEN, 3, padding=1), nn.ReLU(), last)

    def forward(self, maps: Sequence[Tensor]) -> Float[Tensor, "n c h w"]:
        """Fuse four maps, finest first, into one of twice the finest's size."""
        own = [getattr(self, f"layer{number}_rn")(x) for number, x in enumerate(maps, 1)]
        rows, columns = own[0].shape[-2:]
        sizes = [(2 * rows, 2 * columns), *(x.shape[-2:] for x in own[:-1])]
        x = self.get_submodule("refinenet4")(own[3], None, sizes[3])
        for number in (2, 1, 0):
            x = self.get_submodule(f"refinenet{number + 1}")(x, own[number], sizes[number])
        return self.output_conv1(x)


class DptHead(nn.Module):
    """`channels` - 1 values through `activation`, and a confidence 1 + exp(x), for every pixel."""

    def __init__(self, cfg: VGGTConfig, channels: int, activation: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        width, widths = 2 * cfg.embed_dim, cfg.dpt.out_channels
        self.patch, self.activation = cfg.patch_vit.patch_size, activation
        self.norm = nn.LayerNorm(width)
        self.projects = nn.ModuleList([nn.Conv2d(width, own, 1) for own in widths])
        self.resize_layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(widths[0], widths[0], 4, stride=4),
                nn.ConvTranspose2d(widths[1], widths[1], 2, stride=2),
                nn.Identity(),
                nn.Conv2d(widths[3], widths[3], 3, stride=2, padding=1),
            ]
        )
        self.scratch = Scratch(widths, cfg.dpt.features, channels)

    def forward(
        self, layers: Sequence[Float[Tensor, "n t c"]], height: int, width: int
    ) -> tuple[Float[Tensor, "n h w k"], Float[Tensor, "n h w"]]:
        """Return values and confidences of n frames of height x width pixels from the patch tokens of four layers."""
        rows, columns = height // self.patch, width // self.patch
        maps = []
        for tokens, project, resize in zip(layers, self.projects, self.resize_layers, strict=True):
            x = project(self.norm(tokens).mT.unflatten(-1, (rows, columns)))
            maps.append(resize(_placed(x, width / height)))
        x = _placed(_resize(self.scratch(maps), (height, width)), width / height)
        values, confidence = self.scratch.output_conv2(x).movedim(1, -1).tensor_split([-1], dim=-1)
        return self.activation(values), 1 + confidence.squeeze(-1).exp()


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    return interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


def _placed(x: Float[Tensor, "n c h w"], aspect: float) -> Float[Tensor, "n c h w"]:
    """Add the sine-cosine embedding of every cell's place in a picture of this aspect ratio."""
    channels, rows, columns = x.shape[1:]
    return x + POSITION_SHARE * place_embedding(channels, rows, columns, aspect, x.device).to(x.dtype)


def place_embedding(channels: int, rows: int, columns: int, aspect: float, device: torch.device) -> Tensor:
    """Return [channels rows columns]: half the channels for x, half for y, each sines then cosines.

    Coordinates are those of cell centres in a picture whose diagonal is 2 long, the origin in its middle.
    """
    diagonal = (aspect**2 + 1) ** 0.5
    across, down = (
        torch.linspace(-1, 1, count, dtype=torch.float64, device=device) * (span * (count - 1) / count)
        for span, count in ((aspect / diagonal, columns), (1 / diagonal, rows))
    )
    quarter = channels // 4
    omega = POSITION_BASE ** -(torch.arange(quarter, dtype=torch.float64, device=device) / quarter)
    waves = [torch.cat([angle.sin(), angle.cos()]) for angle in (omega[:, None] * axis for axis in (across, down))]
    x = waves[0][:, None].expand(-1, rows, -1)
    y = waves[1][:, :, None].expand(-1, -1, columns)
    return torch.cat([x, y])
