"""Value checks of DepthSplat's nodes that types and ranges alone cannot express (specs/depthsplat.md section 1)."""

from typing import Any

from novelview.config.models import DepthSplatConfig
from novelview.errors import ConfigError

LAYOUTS = {(1, 4, 4), (2, 2, 4), (2, 4, 8)}  # num_scales, upsample_factor, lowest_feature_resolution
GROUPS = 8  # of GroupNorm
MIN_VIEWS = 2


def check_depthsplat(model: DepthSplatConfig) -> None:
    """Raise ConfigError, naming the key and what it must be, for the first value that no model can be built with."""
    _check_layout(model)
    _check_widths(model)
    _check_backbone(model)
    _check_gaussians(model)


def check_context(views: Any) -> None:
    """Raise ConfigError when there are too few context views to match."""
    if views.num_context < MIN_VIEWS:
        raise ConfigError(f"views.num_context={views.num_context}: DepthSplat matches views, give {MIN_VIEWS} or more")


def _check_layout(model: DepthSplatConfig) -> None:
    layout = model.num_scales, model.upsample_factor, model.lowest_feature_resolution
    if layout not in LAYOUTS:
        known = " or ".join("/".join(map(str, each)) for each in sorted(LAYOUTS))
        raise ConfigError(
            f"model.num_scales/upsample_factor/lowest_feature_resolution={'/'.join(map(str, layout))}: must be {known}"
        )
    if model.patch_size != 4 * model.lowest_feature_resolution:
        raise ConfigError(
            f"model.patch_size={model.patch_size}: must be 4 * lowest_feature_resolution, "
            f"{4 * model.lowest_feature_resolution}"
        )
    if not model.near < model.far:
        raise ConfigError(f"model.near={model.near}: must be below model.far={model.far}")
    if model.attention_splits not in (1, 2, 4):
        raise ConfigError(f"model.attention_splits={model.attention_splits}: choose one of 1, 2, 4")
    for key in ("transformer_nearest_views", "cost_volume_nearest_views"):
        value = getattr(model, key)
        if value is not None and value < MIN_VIEWS:
            raise ConfigError(f"model.{key}={value}: counts the view itself, so give {MIN_VIEWS} or more, or null")


def _check_widths(model: DepthSplatConfig) -> None:
    finest = 4 ** (model.num_scales - 1)
    if model.num_depth_candidates % finest or model.num_depth_candidates // finest < 4:
        raise ConfigError(
            f"model.num_depth_candidates={model.num_depth_candidates}: must be a multiple of {finest}, "
            f"{4 * finest} or more"
        )
    if len(model.cnn_channels) != 3 or min(model.cnn_channels) < 1:
        raise ConfigError(f"model.cnn_channels={model.cnn_channels}: give the widths of 3 layers")
    if model.feature_channels % 4:
        raise ConfigError(f"model.feature_channels={model.feature_channels}: must be a multiple of 4")
    for scale in range(model.num_scales):
        _check_unet("model.depth_unet_channels", model.depth_unet_channels, 2**scale, model)


def _check_unet(key: str, channels: int, shrink: int, model: DepthSplatConfig) -> None:
    width = channels // shrink
    if channels < 1 or channels % (GROUPS * shrink):
        raise ConfigError(f"{key}={channels}: must be a multiple of {GROUPS * shrink}")
    if width % min(model.unet_head_channels, width):
        raise ConfigError(f"model.unet_head_channels={model.unet_head_channels}: does not divide {width}, from {key}")


def _check_backbone(model: DepthSplatConfig) -> None:
    dino, layers = model.dino, model.dino_layers
    if dino.embed_dim % dino.num_heads:
        raise ConfigError(f"model.dino.num_heads={dino.num_heads}: does not divide embed_dim={dino.embed_dim}")
    if dino.embed_dim % 2 ** (model.num_scales - 1):
        raise ConfigError(f"model.dino.embed_dim={dino.embed_dim}: must be even with 2 scales")
    if len(layers) != 4 or sorted(set(layers)) != layers or layers[0] < 0 or layers[-1] >= dino.depth:
        raise ConfigError(
            f"model.dino_layers={layers}: give 4 different layers in order, below dino.depth={dino.depth}"
        )
    if len(model.dpt.out_channels) != 4 or min(model.dpt.out_channels) < 1:
        raise ConfigError(f"model.dpt.out_channels={model.dpt.out_channels}: give the widths of 4 maps")
    for key in ("features", "gaussian_features"):
        if getattr(model.dpt, key) < 2:
            raise ConfigError(f"model.dpt.{key}={getattr(model.dpt, key)}: must be 2 or more")


def _check_gaussians(model: DepthSplatConfig) -> None:
    gaussian = model.gaussian
    if gaussian.regressor_channels < 1:
        raise ConfigError(f"model.gaussian.regressor_channels={gaussian.regressor_channels}: must be 1 or more")
    if not gaussian.scale_min < gaussian.scale_max:
        raise ConfigError(
            f"model.gaussian.scale_min={gaussian.scale_min}: must be below scale_max={gaussian.scale_max}"
        )
    if gaussian.regressor == "unet":
        _check_unet("model.gaussian.regressor_channels", gaussian.regressor_channels, 1, model)
    if gaussian.upsampler == "resize_conv" and model.upsample_factor < 4:
        raise ConfigError("model.gaussian.upsampler=resize_conv: needs model.upsample_factor=4")
    if gaussian.upsampler == "resize_conv" and gaussian.upsampler_channels % model.num_scales:
        raise ConfigError(
            f"model.gaussian.upsampler_channels={gaussian.upsampler_channels}: must be even with 2 scales"
        )
