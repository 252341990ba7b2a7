"""VGGT's backbone: patches of all frames, attending within a frame and over all frames in turn."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from novelview.config.sources import VGGTConfig
from novelview.models.dinov2 import DinoVisionTransformer
from novelview.models.vggt.blocks import VggtBlock, grid_positions, rotation

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's


class PatchVit(DinoVisionTransformer):
    """The public DINOv2 with all of its weights, the mask token among them, which inference never reads."""

    def __init__(self, cfg: VGGTConfig) -> None:
        super().__init__(cfg.patch_vit)
        self.mask_token = nn.Parameter(torch.zeros(1, cfg.patch_vit.embed_dim))


class Aggregator(nn.Module):
    """Tokens of every frame: one for its camera, registers, patches; the first two kinds differ in the first frame."""

    def __init__(self, cfg: VGGTConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.patch_embed = PatchVit(cfg)
        self.camera_token = nn.Parameter(torch.randn(1, 2, 1, cfg.embed_dim) * 1e-6)
        self.register_token = nn.Parameter(torch.randn(1, 2, cfg.num_register_tokens, cfg.embed_dim) * 1e-6)
        shape = (cfg.embed_dim, cfg.num_heads, cfg.init_values, True)
        self.frame_blocks = nn.ModuleList([VggtBlock(*shape) for _ in range(cfg.depth)])
        self.global_blocks = nn.ModuleList([VggtBlock(*shape) for _ in range(cfg.depth)])

    @property
    def special(self) -> int:
        """Return the number of tokens before a frame's patches."""
        return 1 + self.cfg.num_register_tokens

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
        mean, std = (images.new_tensor(value)[:, None, None] for value in (MEAN, STD))
        parts = [self.patch_embed((part - mean) / std) for part in images.flatten(0, 1).split(chunk)]
        return torch.cat(parts).unflatten(0, images.shape[:2])

    def _special(self, batch: int, frames: int) -> Float[Tensor, "b s k d"]:
        first, others = torch.cat([self.camera_token, self.register_token], dim=2).unbind(1)
        tokens = torch.stack([first, *[others] * (frames - 1)], dim=1)
        return tokens.expand(batch, -1, -1, -1)
