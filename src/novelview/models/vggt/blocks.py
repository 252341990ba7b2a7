"""Transformer blocks of VGGT: those of DINOv2 with LayerNorm on q and k, and rotary positions of two axes."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from novelview.models.dinov2 import DinoMlp, LayerScale
from novelview.models.layers import attend, split_heads

Rotation = tuple[Tensor, Tensor]


def grid_positions(rows: int, columns: int, special: int, device: torch.device) -> Int[Tensor, "t 2"]:
    """Return (row, column) of every token of a frame: `special` tokens at (0, 0), then patches from (1, 1) on."""
    down, across = torch.arange(1, rows + 1, device=device), torch.arange(1, columns + 1, device=device)
    patches = torch.cartesian_prod(down, across)
    return torch.cat([patches.new_zeros(special, 2), patches])


def rotation(positions: Int[Tensor, "t 2"], width: int, frequency: float) -> Rotation:
    """Return cosines and sines [t width] of rotary embeddings: rows turn a head's first half, columns the second."""
    quarter = width // 4
    exponents = torch.arange(quarter, device=positions.device, dtype=torch.float32) / quarter
    angles = positions[:, :, None].float() * frequency**-exponents
    # Each half of a head holds pairs (i, i + quarter) that turn by the same angle.
    angles = torch.cat([angles, angles], dim=-1).flatten(1)
    return angles.cos(), angles.sin()


def turn(x: Float[Tensor, "b heads t k"], by: Rotation) -> Float[Tensor, "b heads t k"]:
    """Rotate queries or keys by their positions."""
    one, two = x.unflatten(-1, (2, 2, -1)).unbind(-2)
    crossed = torch.stack([-two, one], dim=-2).flatten(-3)
    cosine, sine = (table.to(x.dtype) for table in by)
    return x * cosine + crossed * sine


class VggtAttention(nn.Module):
    """Self-attention with biases; in the aggregator with LayerNorm on q and k and rotary positions."""

    def __init__(self, width: int, heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.q_norm: nn.Module = nn.LayerNorm(width // heads) if qk_norm else nn.Identity()
        self.k_norm: nn.Module = nn.LayerNorm(width // heads) if qk_norm else nn.Identity()

    def forward(self, x: Float[Tensor, "b t d"], by: Rotation | None = None) -> Float[Tensor, "b t d"]:
        """Attend over all tokens of a sequence."""
        q, k, v = split_heads(self.qkv(x), self.heads)
        q, k = self.q_norm(q), self.k_norm(k)
        if by is not None:
            q, k = turn(q, by), turn(k, by)
        return self.proj(attend(q, k, v))


class VggtBlock(nn.Module):
    """Pre-norm residual block with layer scale."""

    def __init__(self, width: int, heads: int, init_values: float, qk_norm: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = VggtAttention(width, heads, qk_norm)
        self.ls1 = LayerScale(width, init_values)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = DinoMlp(width, 4 * width)
        self.ls2 = LayerScale(width, init_values)

    def forward(self, x: Float[Tensor, "b t d"], by: Rotation | None = None) -> Float[Tensor, "b t d"]:
        """Transform a batch of sequences."""
        x = x + self.ls1(self.attn(self.norm1(x), by))
        return x + self.ls2(self.mlp(self.norm2(x)))
