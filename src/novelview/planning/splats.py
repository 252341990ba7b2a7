"""Floating-point operations and parameters of DepthSplat, from its configuration alone (specs/depthsplat.md).

Counted are convolutions, linear layers and attention of one scale of depth; matching, warping and splatting, which
multiply no matrices, are not.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

REGION = 14  # pixels a patch of the ViT; the image is resized to a multiple of it


class Conv(NamedTuple):
    """Convolutions of a kind: channels in and out, weights of the kernel, output positions a pixel, how many."""

    into: int
    out: int
    area: int
    share: float
    count: float = 1

    @property
    def weights(self) -> float:
        """Return the parameters of all of them."""
        return self.count * self.into * self.out * self.area


def counted(cfg: Any) -> bool:
    """Tell whether a configuration is one that is counted here: one scale, and the published heads."""
    return cfg.num_scales == 1 and cfg.gaussian.upsampler == "dpt" and cfg.gaussian.regressor == "conv"


def depthsplat(cfg: Any, height: int, width: int, contexts: int) -> float:
    """Return the operations of finding the Gaussians of one scene of `contexts` views."""
    pixels = height * width
    convolutions = sum(2 * conv.weights * conv.share * pixels for conv in _convolutions(cfg))
    return contexts * (
        convolutions + _transformer(cfg, pixels / 16) + _vit(cfg, (height // REGION) * (width // REGION))
    )


def parameters(cfg: Any) -> float:
    """Return about how many parameters the model has."""
    vit = 12 * cfg.dino.depth * cfg.dino.embed_dim**2
    return (
        sum(conv.weights for conv in _convolutions(cfg)) + vit + 32 * cfg.transformer_layers * cfg.feature_channels**2
    )


def _transformer(cfg: Any, tokens: float) -> float:
    """Self-attention in windows, cross-attention with its MLP of 8 times twice the width."""
    width = cfg.feature_channels
    attention = 2 * 4 * tokens * (tokens / cfg.attention_splits**2) * width
    return cfg.transformer_layers * (2 * 32 * tokens * width**2 + attention)


def _vit(cfg: Any, patches: int) -> float:
    tokens, width = patches + 1 + cfg.dino.num_register_tokens, cfg.dino.embed_dim
    block = 24 * tokens * width**2 + 4 * tokens**2 * width
    return cfg.dino.depth * block + 2 * patches * 3 * REGION**2 * width


def _convolutions(cfg: Any) -> Iterator[Conv]:
    yield from _backbone(cfg.cnn_channels, cfg.feature_channels)
    yield from _regressor(cfg)
    yield from _dense_head(cfg.dpt.out_channels, cfg.dpt.features)
    yield from _dense_head(cfg.dpt.out_channels, cfg.dpt.gaussian_features)
    half = cfg.dpt.features // 2
    yield from (Conv(cfg.dpt.features, half, 9, 1), Conv(half, half, 9, 1))
    yield from _gaussian_head(cfg)


def _backbone(channels: list[int], features: int) -> Iterator[Conv]:
    first, second, third = channels
    yield from (Conv(3, first, 49, 1 / 4), Conv(first, first, 9, 1 / 4, 4))
    yield from (Conv(first, second, 9, 1 / 4), Conv(second, second, 9, 1 / 4, 3), Conv(first, second, 1, 1 / 4))
    yield from (Conv(second, third, 9, 1 / 16), Conv(third, third, 9, 1 / 16, 3), Conv(second, third, 1, 1 / 16))
    yield Conv(third, features, 1, 1 / 16)


def _regressor(cfg: Any) -> Iterator[Conv]:
    """Matches and features to depth: a U-Net of three levels between convolutions, and the head of the candidates."""
    width, candidates = cfg.depth_unet_channels, cfg.num_depth_candidates
    into = candidates + cfg.feature_channels + cfg.cnn_channels[2] + cfg.dino.embed_dim
    yield from (Conv(into, width, 9, 1 / 16), Conv(into, width, 1, 1 / 16), Conv(width, width, 9, 1 / 16))
    # A residual block of the way up has 2 + 1 convolutions of the width, and a 1x1 one past them (2/9 of one).
    up = 2 * (3 + 2 / 9)
    yield Conv(width, width, 9, 1 / 16, 3 + up + 1 + 1)
    yield Conv(width, width, 9, 1 / 64, 3 + up + 1)
    yield Conv(width, width, 9, 1 / 256, 3 + 4 + up)
    yield from (Conv(width, 2 * width, 9, 1 / 16), Conv(2 * width, candidates, 9, 1 / 16))


def _dense_head(channels: list[int], features: int) -> Iterator[Conv]:
    """DPT's fusion of four maps, the finest at half the image's size."""
    for level, own in enumerate(channels):
        share = 1 / 4 ** (level + 1)
        yield Conv(own, features, 9, share)
        yield Conv(features, features, 9, share, 4 if level < 3 else 2)
        yield Conv(features, features, 1, 4 * share)
    yield Conv(channels[3], channels[3], 9, 1 / 256)


def _gaussian_head(cfg: Any) -> Iterator[Conv]:
    width, features = cfg.gaussian.regressor_channels, cfg.dpt.gaussian_features
    channels = 10 + 3 * (cfg.gaussian.sh_degree + 1) ** 2
    yield from (Conv(features + 5, width, 9, 1), Conv(width, width, 9, 1))
    yield from (Conv(width + features + 4, channels, 9, 1), Conv(channels, channels, 9, 1))
