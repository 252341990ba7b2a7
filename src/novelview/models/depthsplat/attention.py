"""Matching features: which views meet, and attention in windows within and between them (specs/depthsplat.md 3)."""

import math
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

ALL_BELOW = 4  # with fewer views than this everyone meets everyone, unless a number of nearest views is asked for
TEMPERATURE = 10000.0
MASKED = -100.0
EPS = 1e-6
EXPANSION = 4


def other_views(c2w: Float[Tensor, "b v 4 4"], local: int, nearest: int | None = None) -> Int[Tensor, "b v m"]:
    """Return the indices of the views that each view meets, itself left out.

    Up to 3 views: all others in order. More: the `local` nearest by the distance of camera centres, nearest first.
    nearest: replaces both rules by the nearest - 1 others, as the PM-Loss variant does in evaluation."""
    views = c2w.shape[1]
    if nearest is None and views < ALL_BELOW:
        table = torch.arange(views, device=c2w.device)
        others = torch.stack([torch.cat([table[:view], table[view + 1 :]]) for view in range(views)])
        return others.expand(len(c2w), -1, -1)
    count = min(local if nearest is None else nearest - 1, views - 1)
    centres = c2w[..., :3, 3].float()
    distance = torch.cdist(centres, centres, compute_mode="donot_use_mm_for_euclid_dist")
    distance.diagonal(dim1=1, dim2=2).fill_(-1.0)  # first also among views at one place
    return distance.argsort(dim=-1, stable=True)[..., 1 : count + 1]


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

    Coordinates run from 1 to the side, divided by the side and times 2 pi; sines and cosines alternate."""
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


class AttentionLayer(nn.Module):
    """One head of attention inside windows; with `ffn`, an MLP over source and message behind it."""

    def __init__(self, d: int, ffn: bool) -> None:
        super().__init__()
        self.q_proj = nn.Linear(d, d, bias=False)
        self.k_proj = nn.Linear(d, d, bias=False)
        self.v_proj = nn.Linear(d, d, bias=False)
        self.merge = nn.Linear(d, d, bias=False)
        self.norm1 = nn.LayerNorm(d)
        if ffn:
            wide = 2 * d * EXPANSION
            self.mlp = nn.Sequential(nn.Linear(2 * d, wide, bias=False), nn.GELU(), nn.Linear(wide, d, bias=False))
            self.norm2 = nn.LayerNorm(d)

    def forward(
        self,
        source: Float[Tensor, "n h w c"],
        target: Float[Tensor, "n h w m c"],
        splits: int,
        mask: Float[Tensor, "k p q"] | None,
    ) -> Float[Tensor, "n h w c"]:
        """Let every pixel of `source` attend to its window in the m maps of `target`, moved along with it."""
        shift = (0, 0) if mask is None else shift_of(source.shape[1], source.shape[2], splits)
        moved = [torch.roll(x, (-shift[0], -shift[1]), (1, 2)) for x in (source, target)]
        query, known = (cut(x, splits) for x in moved)
        window = query.shape[1:3]
        q, k, v = self.q_proj(query).flatten(1, 2), self.k_proj(known).flatten(1, 3), self.v_proj(known).flatten(1, 3)
        q, k, v = (part.unflatten(0, (-1, splits * splits)) for part in (q, k, v))
        heard = scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else mask.to(q.dtype))
        joined = torch.roll(join(heard.flatten(0, 1).unflatten(1, window), splits), shift, (1, 2))
        message = self.norm1(self.merge(joined))
        if hasattr(self, "mlp"):
            message = self.norm2(self.mlp(torch.cat([source, message], dim=-1)))
        return source + message


class Block(nn.Module):
    """Self-attention, then cross-attention to the other views as they were before the block."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.self_attn = AttentionLayer(d, ffn=False)
        self.cross_attn_ffn = AttentionLayer(d, ffn=True)

    def forward(
        self, x: Float[Tensor, "b v h w c"], others: Int[Tensor, "b v m"], splits: int, masks: tuple
    ) -> Float[Tensor, "b v h w c"]:
        """Update all views at once; masks: of the self-attention and of the cross-attention."""
        rows = torch.arange(len(x), device=x.device)[:, None, None]
        target = x[rows, others].movedim(2, 4).flatten(0, 1)
        source = x.flatten(0, 1)
        source = self.self_attn(source, source[..., None, :], splits, masks[0])
        return self.cross_attn_ffn(source, target, splits, masks[1]).unflatten(0, x.shape[:2])


class MultiViewTransformer(nn.Module):
    """Windowed attention within and between views, every other block with windows moved by half their size.

    aligned_mask: with two or more other views the published mask of moved windows sits at the wrong keys, because keys
    run pixel by pixel and the mask view by view; published weights expect that (false)."""

    def __init__(self, d: int, layers: int, splits: int, aligned_mask: bool = False) -> None:
        super().__init__()
        self.splits, self.aligned_mask = splits, aligned_mask
        self.layers = nn.ModuleList([Block(d) for _ in range(layers)])
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self, features: Float[Tensor, "b v c h w"], others: Int[Tensor, "b v m"], recompute: bool = False
    ) -> Float[Tensor, "b v c h w"]:
        """Update the features of every view; others: which views each one attends to.

        recompute: keep no activations inside blocks for the backward pass."""
        recompute = recompute and torch.is_grad_enabled()
        x = features.movedim(2, -1)
        mask, count = shift_mask(x.shape[2], x.shape[3], self.splits, x.device), others.shape[-1]
        moved = mask, mask.repeat_interleave(count, -1) if self.aligned_mask else mask.repeat(1, 1, count)
        for number, block in enumerate(self.layers):
            masks = moved if number % 2 and self.splits > 1 else (None, None)
            given = (x, others, self.splits, masks)
            x = cast(Tensor, checkpoint(block, *given, use_reentrant=False)) if recompute else block(*given)
        return x.movedim(-1, 2)
