"""Which Gaussians can touch which tiles of the image, front to back, in regions of bounded size."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from novelview.splatting.project import Ellipses
from novelview.splatting.settings import Settings

TILE = 8  # pixels a side
MIN_ALPHA = 1 / 255
INRIA_TILE = 16
MEMBERS = 2**22  # of (tile, Gaussian) pairs listed at a time

Bounds = Int[Tensor, "m 4"]  # first tile column and row, then one past the last


@dataclass(frozen=True)
class TileLists:
    """Tiles of a region that anything touches (row-major numbers), and their Gaussians, each list front to back."""

    tiles: Int[Tensor, " t"]
    starts: Int[Tensor, " t"]
    counts: Int[Tensor, " t"]
    members: Int[Tensor, " l"]


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


def tile_lists(bounds: Bounds, settings: Settings, members: int = MEMBERS) -> Iterator[TileLists]:
    """Yield lists that together cover the image; each has at most `members` members, or is one tile's."""
    columns, rows = tile_counts(settings)
    counts = _counts(bounds, columns, rows)
    regions = [(0, 0, columns, rows)]
    while regions:
        left, top, right, bottom = region = regions.pop()
        total = int(counts[top:bottom, left:right].sum())
        if total <= members or (right - left) * (bottom - top) == 1:
            if total:
                yield _list_region(bounds, counts, region)
        elif right - left > bottom - top:
            middle = (left + right) // 2
            regions += [(left, top, middle, bottom), (middle, top, right, bottom)]
        else:
            middle = (top + bottom) // 2
            regions += [(left, top, right, middle), (left, middle, right, bottom)]


def _counts(bounds: Bounds, columns: int, rows: int) -> Int[Tensor, "rows columns"]:
    """Count the Gaussians of every tile from the corners of their rectangles alone."""
    corners = torch.zeros((rows + 1) * (columns + 1), dtype=torch.long, device=bounds.device)
    left, top, right, bottom = bounds.unbind(-1)
    for x, y, sign in ((left, top, 1), (right, top, -1), (left, bottom, -1), (right, bottom, 1)):
        corners.index_add_(0, y * (columns + 1) + x, torch.full_like(x, sign))
    return corners.view(rows + 1, columns + 1).cumsum(0).cumsum(1)[:rows, :columns]


def _list_region(bounds: Bounds, counts: Tensor, region: tuple[int, int, int, int]) -> TileLists:
    left, top, right, bottom = region
    first = torch.maximum(bounds[:, :2], bounds.new_tensor([left, top]))
    size = torch.clamp(torch.minimum(bounds[:, 2:], bounds.new_tensor([right, bottom])) - first, min=0)
    number = size.prod(dim=-1)
    inside = torch.nonzero(number).squeeze(-1)
    first, across, number = first[inside], size[inside, 0], number[inside]
    owner = torch.repeat_interleave(torch.arange(len(inside), device=bounds.device), number)
    step = torch.arange(len(owner), device=bounds.device) - (number.cumsum(0) - number)[owner]
    wide = across[owner]
    tile = (first[owner, 1] + step // wide) * counts.shape[1] + first[owner, 0] + step % wide
    order = torch.argsort(tile, stable=True)
    numbers = torch.arange(counts.numel(), device=bounds.device).view_as(counts)[top:bottom, left:right].flatten()
    lengths = counts[top:bottom, left:right].flatten()
    used = lengths > 0
    starts = lengths.cumsum(0) - lengths
    return TileLists(numbers[used], starts[used], lengths[used], inside[owner[order]])
