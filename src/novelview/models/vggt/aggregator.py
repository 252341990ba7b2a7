"""VGGT's backbone and camera head (specs/vggt.md section 1).

The backbone lets patches of all frames attend within a frame and over all frames in turn; its blocks are those of
DINOv2 with LayerNorm on q and k and rotary positions of two axes.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from novelview.config.sources import VGGTConfig
from novelview.models.dinov2 import DinoAttention, DinoBlock, DinoMlp, DinoVisionTransformer, imagenet_normalised
from novelview.models.layers import attend, split_heads

Rotation = tuple[Tensor, Tensor]
ENCODING = 9  # translation 3, quaternion 4 (scalar last), vertical and horizontal field of view
ADAPTIVE_EPS = 1e-6
NORM_EPS = 1e-5


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


class VggtAttention(DinoAttention):
    """Self-attention with biases; in the aggregator with LayerNorm on q and k and rotary positions."""

    def forward(self, x: Float[Tensor, "b t d"], by: Rotation | None = None) -> Float[Tensor, "b t d"]:
        q, k, v = split_heads(self.qkv(x), self.heads)
        q, k = self.q_norm(q), self.k_norm(k)
        if by is not None:
            q, k = turn(q, by), turn(k, by)
        return self.proj(attend(q, k, v))


def _block(width: int, heads: int, init_values: float, norm: Callable[[int], nn.Module]) -> DinoBlock:
    return DinoBlock(VggtAttention(width, heads, norm), width, 4 * width, init_values, NORM_EPS)


class Aggregator(nn.Module):
    """Tokens of every frame: one for its camera, registers, patches; the first two kinds differ in the first frame."""

    def __init__(self, cfg: VGGTConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.special = 1 + cfg.num_register_tokens  # tokens before a frame's patches
        self.patch_embed = DinoVisionTransformer(cfg.patch_vit)
        # Among the public weights of DINOv2; inference never reads it.
        self.patch_embed.mask_token = nn.Parameter(torch.zeros(1, cfg.patch_vit.embed_dim))
        self.camera_token = nn.Parameter(torch.randn(1, 2, 1, cfg.embed_dim) * 1e-6)
        self.register_token = nn.Parameter(torch.randn(1, 2, cfg.num_register_tokens, cfg.embed_dim) * 1e-6)
        shape = (cfg.embed_dim, cfg.num_heads, cfg.init_values, nn.LayerNorm)
        self.frame_blocks = nn.ModuleList([_block(*shape) for _ in range(cfg.depth)])
        self.global_blocks = nn.ModuleList([_block(*shape) for _ in range(cfg.depth)])

    def forward(
        self, images: Float[Tensor, "b s 3 h w"], layers: set[int], chunk: int
    ) -> dict[int, Float[Tensor, "b s t c"]]:
        """Return the outputs of chosen layers, [b s 1+registers+patches 2*embed_dim].

        A layer's output is that of its attention within frames beside that of its attention over all frames. images:
        in [0,1]. chunk: frames that pass the patch embedding at a time.
        """
        batch, frames = images.shape[:2]
        patch = self.cfg.patch_vit.patch_size
        rows, columns = images.shape[-2] // patch, images.shape[-1] // patch
        x = torch.cat([self._special(batch, frames), self._patches(images, chunk)], dim=2)
        positions = grid_positions(rows, columns, self.special, x.device)
        width = self.cfg.embed_dim // self.cfg.num_heads
        within = rotation(positions, width, self.cfg.rope_frequency)
        over = rotation(positions.repeat(frames, 1), width, self.cfg.rope_frequency)
        kept = {}
        for layer, (frame_block, global_block) in enumerate(zip(self.frame_blocks, self.global_blocks, strict=True)):
            own = frame_block(x.flatten(0, 1), within).view_as(x)
            x = global_block(own.flatten(1, 2), over).view_as(x)
            if layer in layers:
                kept[layer] = torch.cat([own, x], dim=-1)
        return kept

    def _patches(self, images: Float[Tensor, "b s 3 h w"], chunk: int) -> Float[Tensor, "b s n d"]:
        parts = [self.patch_embed(imagenet_normalised(part)) for part in images.flatten(0, 1).split(chunk)]
        return torch.cat(parts).unflatten(0, images.shape[:2])

    def _special(self, batch: int, frames: int) -> Float[Tensor, "b s k d"]:
        first, others = torch.cat([self.camera_token, self.register_token], dim=2).unbind(1)
        tokens = torch.stack([first, *[others] * (frames - 1)], dim=1)
        return tokens.expand(batch, -1, -1, -1)


class CameraHead(nn.Module):
    """Rounds of: modulate the tokens by the estimate so far, let all frames attend, add a change to the estimate."""

    def __init__(self, cfg: VGGTConfig) -> None:
        super().__init__()
        own, width = cfg.camera_head, 2 * cfg.embed_dim
        self.iterations = own.num_iterations
        blocks = [_block(width, own.num_heads, cfg.init_values, nn.Identity) for _ in range(own.trunk_depth)]
        self.trunk = nn.Sequential(*blocks)
        self.token_norm = nn.LayerNorm(width)
        self.trunk_norm = nn.LayerNorm(width)
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, ENCODING))
        self.embed_pose = nn.Linear(ENCODING, width)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))
        self.adaptive_norm = nn.LayerNorm(width, elementwise_affine=False, eps=ADAPTIVE_EPS)
        self.pose_branch = DinoMlp(width, width // 2, ENCODING)

    def forward(self, tokens: Float[Tensor, "b s c"]) -> list[Float[Tensor, "b s 9"]]:
        """Return the encodings after every round; tokens: the camera tokens of the last layer."""
        tokens = self.token_norm(tokens)
        known = self.empty_pose_tokens.expand(*tokens.shape[:2], -1)
        total = torch.zeros_like(known)
        found = []
        for _ in range(self.iterations):
            shift, scale, gate = self.poseLN_modulation(self.embed_pose(known)).chunk(3, dim=-1)
            modulated = gate * (self.adaptive_norm(tokens) * (1 + scale) + shift) + tokens
            total = total + self.pose_branch(self.trunk_norm(self.trunk(modulated)))
            known = total.detach()  # later rounds see the estimate as a constant, as in training
            found.append(torch.cat([total[..., :7], total[..., 7:].relu()], dim=-1))
        return found
