"""Efficient-LVSM: context views encoded once, each on its own; targets read them layer by layer (arXiv 2602.06478,
specs/efficient_lvsm.md). Keys and values of the context are kept: views are added and cameras rendered later."""

from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import layer_norm
from torch.utils.checkpoint import checkpoint

from novelview.cameras.relative import RelativeCameras, camera_rays, relative_cameras
from novelview.config.models import LVSMEfficientConfig, TransformerConfig
from novelview.models.layers import (
    BASE_STD,
    Attention,
    FeedForward,
    RMSNorm,
    attend,
    attend_placed,
    init_linears,
    patch_tokenizer,
    unpatchify,
)
from novelview.models.render import PosedTargets
from novelview.scenes.batch import Views


class Memory(NamedTuple):
    """What targets read of the context views seen so far: keys and values [b heads n d_head] of every decoder layer."""

    keys: list[Tensor]
    values: list[Tensor]


def _normed(x: Tensor) -> Tensor:
    return layer_norm(x, x.shape[-1:])  # no parameters anywhere in this model; eps 1e-5


class EncoderBlock(nn.Module):
    """Attention within a context view, then the feed-forward layer."""

    def __init__(self, cfg: TransformerConfig) -> None:
        super().__init__()
        self.attn, self.mlp = Attention(cfg), FeedForward(cfg.d)

    def forward(self, x: Float[Tensor, "n t d"], place: RelativeCameras | None) -> Float[Tensor, "n t d"]:
        """Transform the tokens of views, each a sequence of its own."""
        x = x + self.attn(_normed(x), place)  # tokens of one camera share its matrix: only patches are turned
        return x + self.mlp(_normed(x))


class CrossAttention(nn.Module):
    """Queries of the targets, keys and values of the context."""

    def __init__(self, cfg: TransformerConfig) -> None:
        super().__init__()
        self.heads = cfg.d // cfg.d_head
        self.to_q = nn.Linear(cfg.d, cfg.d, bias=False)
        self.to_kv = nn.Linear(cfg.d, 2 * cfg.d, bias=False)
        self.fc = nn.Linear(cfg.d, cfg.d, bias=False)
        norm = (cfg.d_head, cfg.qk_norm_eps, cfg.qk_norm_init)
        self.q_norm = RMSNorm(*norm) if cfg.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(*norm) if cfg.qk_norm else nn.Identity()

    def read(self, x: Float[Tensor, "b n d"]) -> tuple[Tensor, Tensor]:
        """Return normalised keys and the values of context tokens, [b heads n d_head] each."""
        k, v = self.to_kv(x).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return self.k_norm(k), v

    def forward(
        self, x: Float[Tensor, "b m d"], keys: Tensor, values: Tensor, place: RelativeCameras | None
    ) -> Float[Tensor, "b m d"]:
        """Answer the target tokens `x` of all views, which do not see each other, from keys and values."""
        q = self.q_norm(self.to_q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2))
        if place is None:
            return self.fc(attend(q, keys.to(q.dtype), values))
        return self.fc(attend_placed(place.query(q), keys.to(q.dtype), values, place))


class DecoderBlock(nn.Module):
    """Attention within a target view, attention to the context, then one feed-forward layer."""

    def __init__(self, cfg: TransformerConfig) -> None:
        super().__init__()
        self.self_attn, self.cross_attn, self.mlp = Attention(cfg), CrossAttention(cfg), FeedForward(cfg.d)

    def forward(
        self,
        x: Float[Tensor, "b v t d"],
        keys: Tensor,
        values: Tensor,
        flat: RelativeCameras | None,
        place: RelativeCameras | None,
    ) -> Float[Tensor, "b v t d"]:
        """Transform the tokens of target views by what the context's keys and values say."""
        x = x + self.self_attn(_normed(x).flatten(0, 1), flat).view_as(x)
        x = x + self.cross_attn(_normed(x).flatten(1, 2), keys, values, place).view_as(x)
        return x + self.mlp(_normed(x))


class EfficientLVSM(PosedTargets):
    """An input encoder and a target decoder, layer i of the one read by layer i of the other.

    `model.cameras`: `plucker` puts rays in the tokens, as published; `prope` puts relative matrices in every attention
    and the camera's own rays in the tokens; `both`. Parameter names are the published ones."""

    def __init__(self, cfg: LVSMEfficientConfig) -> None:
        super().__init__()
        self.cfg, self.patch_size = cfg, cfg.patch_size
        node, gain = cfg.transformer, cfg.transformer.init_gain
        self.rgbp_tokenizer = patch_tokenizer(node.d, cfg.patch_size, gain, channels=9)
        self.target_pose_tokenizer = patch_tokenizer(node.d, cfg.patch_size, gain)
        self.input_self_attn_blocks = nn.ModuleList([EncoderBlock(node) for _ in range(cfg.n_layer)])
        self.self_cross_blocks = nn.ModuleList([DecoderBlock(node) for _ in range(cfg.n_layer)])
        for index, block in enumerate(self.self_cross_blocks):
            depth = (index + 1 if node.depth_init else cfg.n_layer) if node.special_init else 0.5
            init_linears(block, gain * BASE_STD / (2 * depth) ** 0.5)
        if not cfg.encoder_default_init:
            for index, block in enumerate(self.input_self_attn_blocks):
                depth = (index + 1 if node.depth_init else cfg.n_layer) if node.special_init else 0.5
                init_linears(block, gain * BASE_STD / (2 * depth) ** 0.5)
        head = nn.Linear(node.d, 3 * cfg.patch_size**2, bias=False)
        self.image_token_decoder = nn.Sequential(nn.LayerNorm(node.d, elementwise_affine=False), head, nn.Sigmoid())
        init_linears(head, BASE_STD * gain)

    def rays(self, c2w: Float[Tensor, "b v 4 4"], intrinsics: Float[Tensor, "b v 4"], size: tuple[int, int]) -> Tensor:
        """Return what tokens are told of their cameras, [b v 6 h w]: (moment, direction) of every pixel's ray."""
        return camera_rays(self.cfg.cameras, c2w, intrinsics, size)

    def places(
        self, c2w: Float[Tensor, "b v 4 4"], intrinsics: Float[Tensor, "b v 4"], size: tuple[int, int]
    ) -> tuple[RelativeCameras | None, RelativeCameras | None]:
        """Return the transforms of attention within views and between them; None with Plücker rays alone."""
        if self.cfg.cameras == "plucker":
            return None, None
        place = relative_cameras(c2w, intrinsics, size, self.patch_size, self.cfg.transformer.d_head)
        return RelativeCameras(None, None, place.cos, place.sin), place

    def context_layers(self, context: Views) -> list[Float[Tensor, "b v t d"]]:
        """Return the tokens of the context views after every encoder layer."""
        images, c2w = self.checked(context), self.posed(context, "context")
        size = (images.shape[-2], images.shape[-1])
        posed = torch.cat([2 * images - 1, self.rays(c2w, context.intrinsics, size)], dim=2)
        x = self.rgbp_tokenizer(posed.flatten(0, 1))
        flat, _ = self.places(c2w, context.intrinsics, size)
        layers = []
        for block in self.input_self_attn_blocks:
            x = checkpoint(block, x, flat, use_reentrant=False) if self._recompute else block(x, flat)
            layers.append(x.unflatten(0, images.shape[:2]))
        return layers

    @property
    def _recompute(self) -> bool:
        return self.activation_checkpointing and torch.is_grad_enabled()

    def encode(self, context: Views, memory: Memory | None = None) -> Memory:
        """Read context views [b v 3 h w]; with `memory` those it holds stay and these are added.

        Cameras of all calls lie in one world frame. The order of views, and how they are grouped, does not matter."""
        images = self.checked(context)
        _, place = self.places(self.posed(context, "context"), context.intrinsics, (images.shape[-2], images.shape[-1]))
        keys, values = [], []
        for index, (x, block) in enumerate(zip(self.context_layers(context), self.self_cross_blocks, strict=True)):
            k, v = cast(DecoderBlock, block).cross_attn.read(_normed(x.flatten(1, 2)))
            if place is not None:
                k, v = place.key(k), place.key(v)
            keys.append(k if memory is None else torch.cat([memory.keys[index], k], dim=2))
            values.append(v if memory is None else torch.cat([memory.values[index], v], dim=2))
        return Memory(keys, values)

    def target_layers(
        self, memory: Memory, c2w: Tensor, intrinsics: Tensor, size: tuple[int, int]
    ) -> list[Float[Tensor, "b v t d"]]:
        """Return the tokens of the target cameras after every decoder layer."""
        rays = self.rays(c2w, intrinsics, size)
        x = self.target_pose_tokenizer(rays.flatten(0, 1)).unflatten(0, rays.shape[:2])
        flat, place = self.places(c2w, intrinsics, size)
        layers = []
        for block, k, v in zip(self.self_cross_blocks, memory.keys, memory.values, strict=True):
            arguments = (x, k, v, flat, place)
            x = checkpoint(block, *arguments, use_reentrant=False) if self._recompute else block(*arguments)
            layers.append(x)
        return layers

    def decode(
        self,
        scene: Memory,
        c2w: Float[Tensor, "b v 4 4"],
        intrinsics: Float[Tensor, "b v 4"],
        height: int,
        width: int,
    ) -> Float[Tensor, "b v 3 h w"]:
        """Render cameras from what `encode` returned; each target is independent of the others."""
        tokens = self.target_layers(scene, c2w, intrinsics, (height, width))[-1]
        images = unpatchify(self.image_token_decoder(tokens.flatten(0, 1)), self.patch_size, height, width)
        return images.unflatten(0, c2w.shape[:2])
