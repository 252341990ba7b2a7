"""Windowed self-attention and cross-attention between views (specs/depthsplat.md section 3)."""

from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from novelview.models.depthsplat.windows import cut, join, shift_mask, shift_of

EXPANSION = 4


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
        return source + self.refine(source, self.norm1(self.merge(joined)))

    def refine(self, source: Float[Tensor, "n h w c"], message: Float[Tensor, "n h w c"]) -> Float[Tensor, "n h w c"]:
        """Return what is added to the source."""
        if not hasattr(self, "mlp"):
            return message
        return self.norm2(self.mlp(torch.cat([source, message], dim=-1)))


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
    run pixel by pixel and the mask view by view; published weights expect that (false).
    """

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

        recompute: keep no activations inside blocks for the backward pass.
        """
        recompute = recompute and torch.is_grad_enabled()
        x = features.movedim(2, -1)
        moved = self._masks(x.shape[2], x.shape[3], others.shape[-1], x.device)
        for number, block in enumerate(self.layers):
            masks = moved if number % 2 and self.splits > 1 else (None, None)
            given = (x, others, self.splits, masks)
            x = cast(Tensor, checkpoint(block, *given, use_reentrant=False)) if recompute else block(*given)
        return x.movedim(-1, 2)

    def _masks(self, height: int, width: int, others: int, device: torch.device) -> tuple[Tensor, Tensor]:
        mask = shift_mask(height, width, self.splits, device)
        return mask, mask.repeat_interleave(others, -1) if self.aligned_mask else mask.repeat(1, 1, others)
