"""From context views to Gaussians: depth, features at full size, Gaussian head (specs/depthsplat.md section 8)."""

from dataclasses import dataclass
from math import log2
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, softplus

from novelview.config.models import DepthSplatConfig, GaussianConfig
from novelview.models.depthsplat.adapter import FIXED, gaussians_of, raw_channels
from novelview.models.depthsplat.predictor import Cameras, DepthPrediction, DepthPredictor, Features, widths
from novelview.models.depthsplat.pyramid import ResizeUpsampler
from novelview.models.depthsplat.unet import UNet, regressor
from novelview.models.dpt import DepthSplatDPT
from novelview.splatting.gaussians import Gaussians

LARGE, PLAIN = (1, 2, 4, 4, 4), (1, 1, 1, 1, 1)  # widths of the levels of the colour U-Net
COLOUR_ATTENTION = 16
WIDE_FEATURES = 128  # of the resize_conv upsampler, from which on the head's hidden layer is twice as wide


@dataclass
class Encoded:
    """What the encoder finds in b scenes.

    gaussians: one set for each prediction of depth, coarse to fine; empty without Gaussian heads. Only the means of the
    sets differ. confidence: [b n] of every Gaussian where the head gives it.
    """

    depth: DepthPrediction
    gaussians: list[Gaussians]
    confidence: Float[Tensor, "b n"] | None = None


class DepthSplatEncoder(nn.Module):
    """Parameters have the published names, without the prefix `encoder.`."""

    def __init__(self, cfg: DepthSplatConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.depth_predictor = DepthPredictor(cfg)
        if cfg.train_depth_only:
            return
        self.feature_upsampler, features = _upsampler(cfg)
        self.gaussian_regressor = _regressor(cfg, 3 + 1 + 1 + features)
        self.gaussian_head = _head(cfg.gaussian, cfg.gaussian.regressor_channels + 3 + features + 1)

    def forward(self, images: Float[Tensor, "b v 3 h w"], cameras: Cameras) -> Encoded:
        """Return depths and Gaussians of context views. images: RGB in [0,1], sides multiples of `patch_size`."""
        found = self.depth_predictor(images, cameras)
        if self.cfg.train_depth_only:
            return Encoded(found, [])
        match = self._match(found, images)
        raw = self._raw(found, images, match)
        sets = [
            gaussians_of(raw, depth, images, cameras.c2w, cameras.intrinsics, self.cfg.gaussian)
            for depth in found.depths
        ]
        return Encoded(found, sets, self._confidence(raw, match))

    def _match(self, found: DepthPrediction, images: Float[Tensor, "b v 3 h w"]) -> Float[Tensor, "n 1 h w"]:
        """Return how sure the finest matching is: the largest probability of its candidates."""
        best = found.match_probs[-1].max(dim=1, keepdim=True).values
        return interpolate(best, size=images.shape[-2:], mode="nearest")

    def _raw(
        self, found: DepthPrediction, images: Float[Tensor, "b v 3 h w"], match: Float[Tensor, "n 1 h w"]
    ) -> Float[Tensor, "b v c h w"]:
        pictures, views = images.flatten(0, 1), images.shape[1]
        features = self._features(found.features)
        depth = found.depths[-1].flatten(0, 1)[:, None]
        joined = torch.cat([pictures, depth, match, features], dim=1)
        unet = self.cfg.gaussian.regressor == "unet"
        regressed = self.gaussian_regressor(joined, views) if unet else self.gaussian_regressor(joined)
        raw = self.gaussian_head(torch.cat([regressed, pictures, features, match], dim=1))
        return raw.unflatten(0, (-1, views))

    def _features(self, maps: Features) -> Float[Tensor, "n f h w"]:
        if self.cfg.gaussian.upsampler == "dpt":
            return self.feature_upsampler(maps.layers, maps.cnn, maps.mv)
        scales = zip(maps.cnn, maps.mv, maps.mono, strict=False)
        return self.feature_upsampler([torch.cat(scale, dim=1) for scale in scales])

    def _confidence(
        self, raw: Float[Tensor, "b v c h w"], match: Float[Tensor, "n 1 h w"]
    ) -> Float[Tensor, "b n"] | None:
        kind = self.cfg.gaussian.confidence_activation
        if kind == "none":
            return None
        learnt = raw[:, :, 1].sigmoid() if kind == "sigmoid" else softplus(raw[:, :, 1])
        return (learnt + match.detach().view_as(learnt)).flatten(1)


def _upsampler(cfg: DepthSplatConfig) -> tuple[nn.Module, int]:
    """Return the module that brings features to full size, and its channels."""
    cnn, mv, mono = widths(cfg)
    if cfg.gaussian.upsampler == "dpt":
        dpt = cfg.dpt
        sizes = (cfg.dino.embed_dim, dpt.out_channels, dpt.gaussian_features)
        return DepthSplatDPT(*sizes, cnn, mv, cfg.upsample_factor, depth=False), dpt.gaussian_features
    inner = [sum(scale) for scale in zip(cnn, mv, mono, strict=False)]
    doublings = [int(log2(cfg.lowest_feature_resolution)) - scale for scale in range(cfg.num_scales)]
    out = cfg.gaussian.upsampler_channels
    return ResizeUpsampler(inner, doublings, out), out // cfg.num_scales * cfg.num_scales


def _regressor(cfg: DepthSplatConfig, inner: int) -> nn.Module:
    channels = cfg.gaussian.regressor_channels
    if cfg.gaussian.regressor == "unet":
        factors = LARGE if cfg.gaussian.large_unet else PLAIN
        return regressor(inner, channels, UNet(channels, factors, {COLOUR_ATTENTION}, cfg.unet_head_channels))
    first, last = nn.Conv2d(inner, channels, 3, padding=1), nn.Conv2d(channels, channels, 3, padding=1)
    return nn.Sequential(first, nn.GELU(), last)


def _head(cfg: GaussianConfig, inner: int) -> nn.Sequential:
    """Return the last two convolutions; scales start equal, harmonics at the pixel's colour."""
    out = raw_channels(cfg)
    wide = cfg.upsampler == "resize_conv" and cfg.upsampler_channels == WIDE_FEATURES
    hidden = 2 * out if wide else out
    first = nn.Conv2d(inner, hidden, 3, padding=1, padding_mode="replicate")
    last = nn.Conv2d(hidden, out, 3, padding=1, padding_mode="replicate")
    bias = cast(Tensor, last.bias)
    scales = out - 3 * (cfg.sh_degree + 1) ** 2 - FIXED
    with torch.no_grad():
        for part in (last.weight, bias):
            part[scales : scales + 3] = 0
            part[scales + FIXED :] *= not cfg.sh_from_image
        if cfg.second_channel_bias:
            bias[1] = cfg.second_channel_bias
    return nn.Sequential(first, nn.GELU(), last)
