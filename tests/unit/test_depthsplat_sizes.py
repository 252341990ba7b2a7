"""DepthSplat: the published sizes, part by part."""

from typing import Any

import pytest
import torch
from torch import nn

from novelview.config.compose import compose
from novelview.models.registry import build

SIZES = {  # encoder, without the vision transformer, depth predictor alone, keys (specs/depthsplat.md section 1)
    "depthsplat": (38_346_416, 16_290_224, 35_505_441, 567),
    "depthsplat_base": (120_747_896, 34_168_184, 111_165_145, 751),
    "depthsplat_base448": (120_877_016, 34_297_304, 111_229_753, 751),
    "depthsplat_large": (354_337_760, 49_970_144, 337_432_385, 919),
}
PARTS = {
    "depthsplat": {
        **{"backbone": 1_049_120, "transformer": 3_150_336, "mv_pyramid": 0, "pretrained": 22_056_192},
        **{"mono_pyramid": 0, "regressor": 6_453_504, "regressor_residual": 98_432, "depth_head": 590_208},
        **{"upsampler": 2_107_649},
    },
    "depthsplat_base448": {
        **{"backbone": 1_049_120, "transformer": 3_150_336, "mv_pyramid": 69_760, "pretrained": 86_579_712},
        **{"mono_pyramid": 2_507_520, "regressor": 9_010_176, "regressor_residual": 184_512, "depth_head": 700_960},
        **{"upsampler": 7_977_657},
    },
}
HEADS = {
    "depthsplat": {"feature_upsampler": 2_707_888, "gaussian_regressor": 76_736, "gaussian_head": 56_351},
    "depthsplat_base448": {"feature_upsampler": 9_485_088, "gaussian_regressor": 95_168, "gaussian_head": 67_007},
}


def _encoder(size: str, *changes: str) -> Any:
    words = ["model=depthsplat", "scale=paper", f"size=paper/{size}", "recipe=demo/lvsm_decoder_only/pretrain"]
    config = compose("train", [*words, "views.image_size=256", "views.image_width=256", *changes])
    with torch.device("meta"):
        model: Any = build(config.model.without_weights())
    return model.encoder


def _count(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


@pytest.mark.parametrize("size", SIZES)
def test_published_sizes(size: str) -> None:
    whole, without_vit, depth, keys = SIZES[size]
    encoder = _encoder(size)
    assert _count(encoder) == whole
    assert whole - _count(encoder.depth_predictor.pretrained) == without_vit
    assert _count(encoder.depth_predictor) == depth
    assert len(encoder.state_dict()) == keys
    for name, count in PARTS.get(size, {}).items():
        assert _count(getattr(encoder.depth_predictor, name)) == count, name
    for name, count in HEADS.get(size, {}).items():
        assert _count(getattr(encoder, name)) == count, name


def test_a_depth_model_is_the_depth_predictor_alone() -> None:
    encoder = _encoder("depthsplat_base448", "model.train_depth_only=true")
    assert _count(encoder) == SIZES["depthsplat_base448"][2]
    assert all(key.startswith("depth_predictor.") for key in encoder.state_dict())


def test_the_size_of_the_pm_loss_variant() -> None:
    encoder = _encoder("depthsplat_pm")
    assert round(_count(encoder) / 1e6, 1) == 118.1
    assert len(encoder.state_dict()) == 907
