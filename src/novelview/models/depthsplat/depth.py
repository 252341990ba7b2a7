"""Depth of every context view: features, plane sweep, regression, refinement (specs/depthsplat.md sections 2 to 7).

The plane sweep (section 5) asks how well features of views match at candidate depths."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import grid_sample
from torch.utils.checkpoint import checkpoint

from novelview.config.models import DepthSplatConfig
from novelview.devices import full_precision
from novelview.models.depthsplat.attention import MultiViewTransformer, add_positions, other_views
from novelview.models.depthsplat.features import Backbone, FeaturePyramid, UNet, regressor
from novelview.models.dinov2 import DinoVisionTransformer, imagenet_normalised
from novelview.models.dpt import DepthSplatDPT, replicate_head, resized

MIN_Z = 1e-3
DINO_STRIDE = 8  # image side over that of the monocular maps
UNET_ATTENTION = 4  # downsampling of the coarsest U-Net at which views meet; twice that at the next scale


@dataclass
class Cameras:
    """Context cameras. c2w: OpenCV camera-to-world, scene units; intrinsics: first two rows over width and height."""

    c2w: Float[Tensor, "b v 4 4"]
    intrinsics: Float[Tensor, "b v 3 3"]


@dataclass
class Features:
    """Maps of n = b v views. cnn: 3, mv and mono: one a scale, coarsest first; layers: the transformer's four."""

    cnn: list[Float[Tensor, "n c h w"]]
    mv: list[Float[Tensor, "n c h w"]]
    mono: list[Float[Tensor, "n c h w"]]
    layers: list[Float[Tensor, "n c h w"]]


@dataclass
class DepthPrediction:
    """depths: [b v h w] each at full size, coarse to fine, the last final; match_probs: per scale, summing to 1."""

    features: Features
    depths: list[Float[Tensor, "b v h w"]] = field(default_factory=list)
    match_probs: list[Float[Tensor, "n d h w"]] = field(default_factory=list)


class DepthPredictor(nn.Module):
    """Depth of all context views from each other; parameters have the published names.

    Depths lie in [near, far], in the units of the poses: z, or with `gaussian.unit_rays` taken along the ray.
    recompute: keep fewer activations for the backward pass, and compute them again there."""

    recompute = False

    def __init__(self, cfg: DepthSplatConfig) -> None:
        super().__init__()
        self.cfg = cfg
        d, scales = cfg.feature_channels, cfg.num_scales
        self.backbone = Backbone(cfg.cnn_channels, d, cfg.lowest_feature_resolution)
        self.transformer = MultiViewTransformer(
            d, cfg.transformer_layers, cfg.attention_splits, cfg.many_view_mask == "aligned"
        )
        self.pretrained = DinoVisionTransformer(cfg.dino)
        self.mv_pyramid = FeaturePyramid(d, scales)
        self.mono_pyramid = FeaturePyramid(cfg.dino.embed_dim, scales)
        self._build_regressors(cfg)
        cnn, mv = widths(cfg)[:2]
        dino, dpt = cfg.dino.embed_dim, cfg.dpt
        self.upsampler = DepthSplatDPT(dino, dpt.out_channels, dpt.features, cnn, mv, cfg.upsample_factor, depth=True)

    def _build_regressors(self, cfg: DepthSplatConfig) -> None:
        self.regressor, self.regressor_residual, self.depth_head = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        cnn, mv, mono = widths(cfg)
        for scale in range(cfg.num_scales):
            candidates, channels = cfg.num_depth_candidates // 4**scale, cfg.depth_unet_channels // 2**scale
            inner = candidates + cnn[scale] + mv[scale] + mono[scale]
            unet = UNet(channels, [1] * (3 + scale), {UNET_ATTENTION * 2**scale}, cfg.unet_head_channels)
            self.regressor.append(regressor(inner, channels, unet))
            self.regressor_residual.append(nn.Conv2d(inner, channels, 1))
            self.depth_head.append(replicate_head(channels, 2 * channels, candidates))

    def forward(self, images: Float[Tensor, "b v 3 h w"], cameras: Cameras) -> DepthPrediction:
        """Return the depths of all views; in training also those before refinement. images: RGB in [0,1]."""
        found = DepthPrediction(self.features(images, cameras))
        height, width = images.shape[-2:]
        views, scales, inverse = images.shape[1], self.cfg.num_scales, None
        for scale in range(scales):
            inverse = self._regress(scale, found, inverse, cameras, (height, width))
            if self.training and (scale < scales - 1 or self.cfg.supervise_all_scales):
                found.depths.append(1 / resized(inverse, height, width)[:, 0].unflatten(0, (-1, views)))
        assert inverse is not None
        residual = self.upsampler(found.features.layers, found.features.cnn, found.features.mv, inverse)
        fine = (resized(inverse, height, width) + residual).clamp(1 / self.cfg.far, 1 / self.cfg.near)
        found.depths.append(1 / fine[:, 0].unflatten(0, (-1, views)))
        return found

    def features(self, images: Float[Tensor, "b v 3 h w"], cameras: Cameras) -> Features:
        """Return the maps that depths and Gaussians are read from."""
        pictures = imagenet_normalised(images).flatten(0, 1)
        cnn = self.backbone(pictures)
        placed = add_positions(cnn[0], self.cfg.attention_splits).unflatten(0, images.shape[:2])
        others = other_views(cameras.c2w, self.cfg.local_mv_match, self.cfg.transformer_nearest_views)
        mv = self.transformer(placed, others, self.recompute).flatten(0, 1)
        layers = self._monocular(pictures)
        mono = layers[-1]
        if self.cfg.lowest_feature_resolution < DINO_STRIDE:
            mono = resized(mono, *cnn[0].shape[-2:])
        return Features(cnn, self.mv_pyramid(mv), self.mono_pyramid(mono), layers)

    def _monocular(self, pictures: Float[Tensor, "n 3 h w"]) -> list[Float[Tensor, "n c k l"]]:
        patch, (height, width) = self.cfg.dino.patch_size, pictures.shape[-2:]
        rows, columns = height // patch, width // patch
        fitted = resized(pictures, rows * patch, columns * patch)
        tokens = self.pretrained.intermediate(fitted, self.cfg.dino_layers, self.recompute)
        maps = (layer.mT.unflatten(2, (rows, columns)) for layer in tokens)
        return [resized(x, height // DINO_STRIDE, width // DINO_STRIDE) for x in maps]

    def _regress(
        self,
        scale: int,
        found: DepthPrediction,
        before: Float[Tensor, "n 1 p q"] | None,
        cameras: Cameras,
        size: tuple[int, int],
    ) -> Float[Tensor, "n 1 h w"]:
        """Return the inverse depth at a scale, given that of the scale before; keep the match probabilities."""
        maps = found.features
        batch, views = cameras.c2w.shape[:2]
        near, far, count = self.cfg.near, self.cfg.far, self.cfg.num_depth_candidates
        if before is None:
            candidates = coarse_candidates(near, far, count, maps.mv[scale])
        else:
            around = resized(before, *maps.mv[scale].shape[-2:]).detach()
            candidates = fine_candidates(around, near, far, count, scale)
        others = other_views(cameras.c2w, self.cfg.local_mv_match, self.cfg.cost_volume_nearest_views)
        lens = in_pixels(cameras.intrinsics, size, self.cfg.upsample_factor * 2 ** (self.cfg.num_scales - 1 - scale))
        matching = maps.mv[scale].unflatten(0, (batch, views))
        cost = cost_volume(matching, lens, cameras.c2w, candidates, others, self.recompute)
        joined = torch.cat([cost, maps.cnn[scale], maps.mv[scale], maps.mono[scale]], dim=1)
        regressed = self.regressor[scale](joined, views) + self.regressor_residual[scale](joined)
        found.match_probs.append(self.depth_head[scale](regressed).softmax(dim=1))
        return (found.match_probs[-1] * candidates).sum(dim=1, keepdim=True)


def widths(cfg: DepthSplatConfig) -> tuple[list[int], list[int], list[int]]:
    """Return the channels of the CNN's three maps and of matching and monocular ones by scale, coarsest first."""
    first, second, _ = cfg.cnn_channels
    mv, mono = (
        [width // 2**scale for scale in range(cfg.num_scales)] for width in (cfg.feature_channels, cfg.dino.embed_dim)
    )
    return [cfg.feature_channels, second, first], mv, mono


def in_pixels(intrinsics: Float[Tensor, "b v 3 3"], size: Sequence[int], factor: int) -> Float[Tensor, "b v 3 3"]:
    """Return intrinsics in pixels of a map `factor` times smaller than images of `size` (height, width)."""
    height, width = size
    return intrinsics * intrinsics.new_tensor([width / factor, height / factor, 1.0])[:, None]


def coarse_candidates(near: float, far: float, count: int, like: Tensor) -> Float[Tensor, "1 d 1 1"]:
    """Return `count` inverse depths, from 1/far to 1/near in equal steps."""
    return torch.linspace(1 / far, 1 / near, count, device=like.device)[None, :, None, None]


def fine_candidates(
    inverse: Float[Tensor, "n 1 h w"], near: float, far: float, coarse: int, scale: int
) -> Float[Tensor, "n d h w"]:
    """Return the candidates around a prediction: half of them below it, in steps 2^scale finer than the coarse ones.

    coarse: number of candidates at scale 0, of which this one has coarse / 4^scale. Both ends are kept inside
    [1/far, 1/near], and what lies between is evenly spaced."""
    count = coarse // 4**scale
    step = (1 / near - 1 / far) / (coarse - 1) / 2**scale
    low = (inverse - count // 2 * step).clamp(1 / far, 1 / near)
    high = (inverse + (count // 2 - 1) * step).clamp(1 / far, 1 / near)
    place = torch.linspace(0, 1, count, device=inverse.device, dtype=inverse.dtype)[:, None, None]
    return low + place * (high - low)


def warp(
    features: Float[Tensor, "n c h w"],
    intrinsics: Float[Tensor, "n 3 3"],
    pose: Float[Tensor, "n 4 4"],
    depth: Float[Tensor, "n d h w"],
) -> Float[Tensor, "n c d h w"]:
    """Sample another view's features where the reference view's pixels, at candidate depths, fall in it.

    intrinsics: in pixels of the map, of the reference view and used for both (exact where views share them); pose:
    reference camera to the other camera; depth: z in the reference camera. Pixel centres at integers, zero outside;
    no gradient through the places."""
    with torch.no_grad():
        grid = _places(intrinsics, pose, depth)
    warped = grid_sample(features, grid.flatten(1, 2), "bilinear", "zeros", align_corners=True)
    return warped.unflatten(2, depth.shape[1:3])


def _places(
    intrinsics: Float[Tensor, "n 3 3"], pose: Float[Tensor, "n 4 4"], depth: Float[Tensor, "n d h w"]
) -> Float[Tensor, "n d h w 2"]:
    """Return where the reference pixels fall in the other map, its corners at -1 and 1."""
    height, width = depth.shape[-2:]
    y, x = (torch.arange(size, device=depth.device, dtype=depth.dtype) for size in (height, width))
    pixels = torch.stack([x.expand(height, -1), y[:, None].expand(-1, width), torch.ones_like(x).expand(height, -1)])
    rays = pose[:, :3, :3] @ (intrinsics.inverse() @ pixels.flatten(1))
    points = rays[:, :, None] * depth.flatten(2)[:, None] + pose[:, :3, 3, None, None]
    projected = (intrinsics @ points.flatten(2)).unflatten(2, depth.shape[1:])
    xy = projected[:, :2] / projected[:, 2:].clamp(min=MIN_Z)
    last = torch.tensor([width - 1, height - 1], device=depth.device, dtype=depth.dtype)
    return 2 * xy.movedim(1, -1) / last - 1


def cost_volume(
    features: Float[Tensor, "b v c h w"],
    intrinsics: Float[Tensor, "b v 3 3"],
    c2w: Float[Tensor, "b v 4 4"],
    inverse: Float[Tensor, "n d h w"],
    others: Int[Tensor, "b v m"],
    recompute: bool = False,
) -> Float[Tensor, "n d h w"]:
    """Return the mean over the other views of (reference . warped) / sqrt(c) at every candidate, n = b v.

    intrinsics: in pixels of the maps. inverse: candidate inverse depths, also [1 d 1 1]. One other view at a time, in
    float32 also under autocast, where bfloat16 would round places to whole pixels. recompute: warp again in the
    backward pass instead of keeping what was warped."""
    recompute = recompute and torch.is_grad_enabled()
    with full_precision(features):
        features, c2w, lens = features.float(), c2w.float(), intrinsics.float().flatten(0, 1)
        depth = (1 / inverse.float()).expand(features.shape[0] * features.shape[1], -1, *features.shape[-2:])
        total: Tensor | int = 0
        for other in others.unbind(-1):
            given = (features, lens, c2w, depth, other)
            total = total + (checkpoint(_matched, *given, use_reentrant=False) if recompute else _matched(*given))
        return cast(Tensor, total) / (features.shape[2] ** 0.5 * others.shape[-1])


def _matched(
    features: Float[Tensor, "b v c h w"],
    intrinsics: Float[Tensor, "n 3 3"],
    c2w: Float[Tensor, "b v 4 4"],
    depth: Float[Tensor, "n d h w"],
    other: Int[Tensor, "b v"],
) -> Float[Tensor, "n d h w"]:
    """Return the scalar products of every view's features with those of one other view each, warped."""
    place = torch.arange(len(c2w), device=c2w.device)[:, None], other
    pose = torch.linalg.inv(c2w[place]) @ c2w
    warped = warp(features[place].flatten(0, 1), intrinsics, pose.flatten(0, 1), depth)
    return torch.einsum("nchw,ncdhw->ndhw", features.flatten(0, 1), warped)
