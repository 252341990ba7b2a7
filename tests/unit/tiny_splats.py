"""DepthSplat of a few thousand weights and views for it."""

from typing import Any

import torch

from novelview.config.models import DepthSplatConfig, DinoConfig, DptConfig, GaussianConfig
from novelview.models.depthsplat.model import DepthSplat
from novelview.models.registry import build
from novelview.scenes.batch import Views

DINO = DinoConfig(
    img_size=28,
    embed_dim=16,
    depth=4,
    num_heads=2,
    num_register_tokens=0,
    qk_norm=False,
    interpolate_antialias=False,
    interpolate_offset=0.1,
)
TWO_SCALES = {"num_scales": 2, "upsample_factor": 4, "lowest_feature_resolution": 8, "patch_size": 32}
PM: dict[str, Any] = {"upsampler": "resize_conv", "regressor": "unet", "scale_activation": "exp", "unit_rays": True}


def splat_config(**changes: Any) -> DepthSplatConfig:
    sizes: dict[str, Any] = {
        "near": 1.0,
        "far": 20.0,
        "num_depth_candidates": 16,
        "cnn_channels": [8, 8, 16],
        "feature_channels": 16,
        "transformer_layers": 2,
        "depth_unet_channels": 16,
        "unet_head_channels": 8,
        "dino": DINO,
        "dino_layers": [0, 1, 2, 3],
        "dpt": DptConfig([8, 8, 8, 8], 8, 8),
        "gaussian": gaussian_config(),
    }
    return DepthSplatConfig(**{**sizes, **changes})


def gaussian_config(**changes: Any) -> GaussianConfig:
    return GaussianConfig(**{"sh_degree": 1, "upsampler_channels": 8, "regressor_channels": 8, **changes})


def depthsplat(**changes: Any) -> DepthSplat:
    torch.manual_seed(0)
    model = build(splat_config(**changes))
    assert isinstance(model, DepthSplat)
    return model.eval()


def posed_views(count: int, size: tuple[int, int] = (32, 32), scenes: int = 1, seed: int = 0) -> Views:
    """Cameras side by side, 0.2 apart, that look along z."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(scenes, count, 3, *size, generator=generator)
    c2w = torch.eye(4).repeat(scenes, count, 1, 1)
    c2w[..., 0, 3] = 0.2 * torch.arange(count)
    lens = torch.tensor([size[1] * 0.9, size[1] * 0.9, size[1] / 2, size[0] / 2])
    return Views(images, c2w, lens.expand(scenes, count, 4))
