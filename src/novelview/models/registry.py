"""The registry: a model is one file or folder, one configuration node and one line here."""

from novelview.config.models import (
    DepthSplatConfig,
    LaCTConfig,
    LVSMDecoderOnlyConfig,
    LVSMEncoderDecoderConfig,
    ModelConfig,
    PTLVSMConfig,
    UPLVSMConfig,
)
from novelview.errors import ConfigError
from novelview.models.depthsplat.model import DepthSplat
from novelview.models.lact.model import LaCT
from novelview.models.lvsm import LVSMDecoderOnly, LVSMEncoderDecoder
from novelview.models.ptlvsm import PTLVSM
from novelview.models.render import ViewModel
from novelview.models.uplvsm import UPLVSM

MODELS: dict[str, tuple[type[ModelConfig], type[ViewModel]]] = {
    "uplvsm": (UPLVSMConfig, UPLVSM),
    "ptlvsm": (PTLVSMConfig, PTLVSM),
    "lvsm_decoder_only": (LVSMDecoderOnlyConfig, LVSMDecoderOnly),
    "lvsm_encoder_decoder": (LVSMEncoderDecoderConfig, LVSMEncoderDecoder),
    "lact": (LaCTConfig, LaCT),
    "depthsplat": (DepthSplatConfig, DepthSplat),
}


def build(cfg: ModelConfig) -> ViewModel:
    """Build the model that `cfg` describes, freshly initialised from torch's global generator.

    Raises ConfigError when `cfg.name` is unknown or `cfg` is another model's node.
    """
    if cfg.name not in MODELS:
        raise ConfigError(f"model.name={cfg.name}: choose one of {', '.join(MODELS)}")
    node, model = MODELS[cfg.name]
    if not isinstance(cfg, node):
        raise ConfigError(f"model.name={cfg.name}: its configuration is a {type(cfg).__name__}, not {node.__name__}")
    return model(cfg)  # pyright: ignore[reportCallIssue]
