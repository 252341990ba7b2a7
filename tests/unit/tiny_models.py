"""Models of a few thousand weights and views for them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from novelview.cameras.poses import encoding_to_c2w
from novelview.config.models import (
    DinoConfig,
    LaCTConfig,
    LVSMDecoderOnlyConfig,
    LVSMEfficientConfig,
    LVSMEncoderDecoderConfig,
    ModelConfig,
    PTLVSMConfig,
    TransformerConfig,
    TTTConfig,
    UPLVSMConfig,
)
from novelview.models.registry import build
from novelview.models.render import ViewModel
from novelview.models.uplvsm import UPLVSM
from novelview.scenes.batch import Views

TRANSFORMER = TransformerConfig(d=32, d_head=16)
DINO = DinoConfig(img_size=70, embed_dim=32, depth=1, num_heads=2)
LAYERS = {"encoder_n_layer": 2, "estimator_n_layer": 1, "decoder_n_layer": 2, "n_latent_vectors": 6}
ENCODER_DECODER = {"patch_size": 14, "encoder_n_layer": 2, "decoder_n_layer": 2, "n_latent_vectors": 6}


def _lact(transformer: TransformerConfig, **changes: Any) -> LaCTConfig:
    """Fast-weight heads are narrower than the fewest tokens a test has, so that updates are of full rank."""
    sizes = {"patch_size": 14, "d": transformer.d, "d_head": transformer.d_head, "n_layer": 2}
    return LaCTConfig(**{**sizes, "ttt": TTTConfig(d_head=4), **changes})


SMALL: dict[str, Callable[..., ModelConfig]] = {
    "uplvsm": partial(UPLVSMConfig, dino=DINO, **LAYERS),
    "ptlvsm": partial(PTLVSMConfig, dino=DINO, n_layer=2),
    "lvsm_decoder_only": partial(LVSMDecoderOnlyConfig, patch_size=14, n_layer=2),
    "lvsm_encoder_decoder": partial(LVSMEncoderDecoderConfig, **ENCODER_DECODER),
    "lvsm_efficient": partial(LVSMEfficientConfig, patch_size=14, n_layer=2),
    "lact": _lact,
}
NAMES = sorted(SMALL)


def config(name: str, **changes: Any) -> ModelConfig:
    return SMALL[name](**{"transformer": TRANSFORMER, **changes})


def model_of(name: str, **changes: Any) -> ViewModel:
    torch.manual_seed(0)
    return build(config(name, **changes)).eval()


def uplvsm(**changes: Any) -> UPLVSM:
    model = model_of("uplvsm", **changes)
    assert isinstance(model, UPLVSM)
    return model


def views(count: int, seed: int, size: tuple[int, int] = (28, 42), scenes: int = 2) -> Views:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(scenes, count, 3, *size, generator=generator)
    c2w = encoding_to_c2w(torch.randn(scenes, count, 7, generator=generator))
    lens = torch.tensor([40.0, 45.0, size[1] / 2, size[0] / 2])
    return Views(images, c2w, lens.expand(scenes, count, 4))


def weights_of(model: nn.Module) -> Tensor:
    return torch.cat([value.flatten() for value in model.state_dict().values()])
