"""Windows of feature maps, positions inside them, the mask of shifted ones (specs/depthsplat.md section 3)."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

TEMPERATURE = 10000.0
MASKED = -100.0
EPS = 1e-6


def cut(x: Float[Tensor, "n h w *c"], splits: int) -> Float[Tensor, "m k l *c"]:
    """Cut maps into splits x splits windows, those of one map row by row."""
    rows = x.unflatten(1, (splits, -1)).unflatten(3, (splits, -1))
    return rows.transpose(2, 3).flatten(0, 2)


def join(x: Float[Tensor, "m k l c"], splits: int) -> Float[Tensor, "n h w c"]:
    """Put windows back: the inverse of `cut`."""
    grid = x.unflatten(0, (-1, splits, splits)).transpose(2, 3)
    return grid.flatten(3, 4).flatten(1, 2)


def positions(rows: int, columns: int, channels: int, device: torch.device) -> Float[Tensor, "h w c"]:
    """Return the sine-cosine encoding of a window: half of the channels tell the row, half the column.

    Coordinates run from 1 to the side, divided by the side and times 2 pi; sines and cosines alternate.
    """
    width = channels // 2
    power = 2 * (torch.arange(width, device=device) // 2) / width
    y, x = (_waves(count, TEMPERATURE**power) for count in (rows, columns))
    return torch.cat([y[:, None].expand(-1, columns, -1), x[None].expand(rows, -1, -1)], dim=-1)


def _waves(count: int, wavelength: Float[Tensor, " c"]) -> Float[Tensor, "n c"]:
    place = torch.arange(1, count + 1, device=wavelength.device, dtype=torch.float32) / (count + EPS) * 2 * math.pi
    angle = place[:, None] / wavelength
    return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], dim=-1).flatten(-2)


def add_positions(features: Float[Tensor, "n c h w"], splits: int) -> Float[Tensor, "n c h w"]:
    """Add the position inside each of splits x splits windows."""
    _, channels, height, width = features.shape
    table = positions(height // splits, width // splits, channels, features.device).permute(2, 0, 1)
    return features + table.repeat(1, splits, splits).to(features.dtype)


def shift_of(height: int, width: int, splits: int) -> tuple[int, int]:
    """Return half a window's sides, by which every other layer moves the maps."""
    return height // splits // 2, width // splits // 2


def shift_mask(height: int, width: int, splits: int, device: torch.device) -> Float[Tensor, "k n n"]:
    """Return what is added to attention logits of shifted windows: -100 between pixels that were not neighbours."""
    down, right = shift_of(height, width, splits)
    region = 3 * _regions(height, height // splits, down, device)[:, None]
    region = region + _regions(width, width // splits, right, device)[None]
    inside = cut(region[None, ..., None], splits).flatten(1)
    return (inside[:, :, None] != inside[:, None, :]).float() * MASKED


def _regions(size: int, window: int, shift: int, device: torch.device) -> Tensor:
    place = torch.arange(size, device=device)
    return (place >= size - window).long() + (place >= size - shift).long()
