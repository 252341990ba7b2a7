"""Which Gaussians can touch which tiles of the image, front to back, in lists of bounded size."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from novelview.splatting.project import Ellipses
from novelview.splatting.settings import Settings

TILE = 4  # pixels a side: larger ones evaluate more pixels in vain
MIN_ALPHA = 1 / 255
INRIA_TILE = 16
MEMBERS = 2**22  # of (tile, Gaussian) pairs listed at a time; bounds the memory of sorting them

Bounds = Int[Tensor, "m 4"]  # first tile column and row, then one past the last


@dataclass(frozen=True)
class TileLists:
    """Tiles that anything touches (row-major numbers), and their Gaussians, each list front to back."""

    tiles: Int[Tensor, " t"]
    starts: Int[Tensor, " t"]
    counts: Int[Tensor, " t"]
    members: Int[Tensor, " l"]


def tile_origins(tiles: Int[Tensor, " t"], settings: Settings) -> tuple[Int[Tensor, " t"], Int[Tensor, " t"]]:
    """Return the pixel column and row at which tiles begin in their image; numbers run on from image to image."""
    columns, rows = tile_counts(settings)
    return tiles % columns * TILE, tiles // columns % rows * TILE


def stack_bounds(bounds: Sequence[Bounds], settings: Settings) -> Bounds:
    """Return the bounds of several images' Gaussians as those of one column of images, one below the other."""
    _, rows = tile_counts(settings)
    step = torch.tensor([0, rows, 0, rows], device=bounds[0].device)
    return torch.cat([own + number * step for number, own in enumerate(bounds)])


def tile_counts(settings: Settings) -> tuple[int, int]:
    """Return the number of columns and rows of tiles that cover the image."""
    return -(-settings.width // TILE), -(-settings.height // TILE)


@torch.no_grad()
def tile_bounds(ellipses: Ellipses, opacities: Float[Tensor, " m"], settings: Settings) -> Bounds:
    """Return the tiles within which each Gaussian's alpha can reach 1/255; none where it cannot.

    three_sigma cuts, besides, at the 16-pixel tiles that the INRIA kernel's square of 3 standard deviations meets.
    """
    reach = torch.sqrt(2 * torch.log(torch.clamp(opacities, min=MIN_ALPHA) * 255))
    extent = (reach * 1.0001 + 1e-4)[:, None] * torch.sqrt(ellipses.variances[:, [0, 2]])
    low, high = ellipses.means - extent - 0.5, ellipses.means + extent - 0.5
    first, last = torch.ceil(low) // TILE, torch.floor(high) // TILE + 1
    if settings.three_sigma:
        cut_first, cut_last = _three_sigma(ellipses)
        first, last = torch.maximum(first, cut_first), torch.minimum(last, cut_last)
    size = first.new_tensor(tile_counts(settings))
    first, last = torch.clamp(first, min=0), torch.minimum(last, size)
    empty = (opacities < MIN_ALPHA) | ~(last > first).all(dim=-1)
    bounds = torch.cat([first, last], dim=-1)
    return torch.where(empty[:, None], torch.zeros_like(bounds), bounds).long()


def _three_sigma(ellipses: Ellipses) -> tuple[Tensor, Tensor]:
    xx, xy, yy = ellipses.variances.unbind(-1)
    largest = 0.5 * (xx + yy) + torch.clamp(torch.hypot(0.5 * (xx - yy), xy), min=0.1**0.5)
    radius = torch.ceil(3 * torch.sqrt(largest))[:, None]
    scale = INRIA_TILE // TILE
    low, high = ellipses.means - 0.5 - radius, ellipses.means - 0.5 + radius + INRIA_TILE - 1
    return torch.trunc(low / INRIA_TILE) * scale, torch.trunc(high / INRIA_TILE) * scale


def slabs(bounds: Bounds) -> Iterator[slice]:
    """Split the Gaussians, front to back, so that each part touches about `MEMBERS` tiles at most."""
    touched = (bounds[:, 2:] - bounds[:, :2]).prod(dim=-1)
    before = touched.cumsum(0) - touched
    _, counts = torch.unique_consecutive(before // MEMBERS, return_counts=True)
    first = 0
    for count in counts.tolist():
        yield slice(first, first + count)
        first += count


def list_tiles(bounds: Bounds, slab: slice, alive: Bool[Tensor, " t"], columns: int) -> TileLists:
    """List a slab's Gaussians by those tiles that still take any."""
    first, size = bounds[slab, :2], bounds[slab, 2:] - bounds[slab, :2]
    touched = size.prod(dim=-1)
    owner = torch.repeat_interleave(torch.arange(len(touched), device=bounds.device), touched)
    step = torch.arange(len(owner), device=bounds.device) - (touched.cumsum(0) - touched)[owner]
    across = size[owner, 0]
    tile = (first[owner, 1] + step // across) * columns + first[owner, 0] + step % across
    kept = alive[tile]
    tile, order = torch.sort(tile[kept], stable=True)
    tiles, counts = torch.unique_consecutive(tile, return_counts=True)
    return TileLists(tiles, counts.cumsum(0) - counts, counts, owner[kept][order] + slab.start)
