"""Models by name: built from a configuration, written to and read from weights files.

A model is one file or folder and one configuration node. Weights files are safetensors with the
resolved configuration in the header, so that a file alone rebuilds its model."""

import importlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from novelview.config.checkpoints import FORMAT, TENSORS, checksum_of, model_config, read_config
from novelview.config.compose import MODELS
from novelview.config.models import ModelConfig
from novelview.errors import ConfigError
from novelview.files import write_bytes
from novelview.models.published import match_keys, read_state
from novelview.models.render import ViewModel


def build(cfg: ModelConfig) -> ViewModel:
    """Build the model that `cfg` describes, freshly initialised from torch's global generator.

    Its module is imported here, so that what another model is made of is no part of a stage's code. Raises ConfigError
    when `cfg.name` is unknown or `cfg` is another model's node."""
    if cfg.name not in MODELS:
        raise ConfigError(f"model.name={cfg.name}: choose one of {', '.join(MODELS)}")
    if not isinstance(cfg, MODELS[cfg.name]):
        wanted = MODELS[cfg.name].__name__
        raise ConfigError(f"model.name={cfg.name}: its configuration is a {type(cfg).__name__}, not {wanted}")
    module, _, name = cfg.code.rpartition(".")
    return getattr(importlib.import_module(module), name)(cfg)


def save_weights(path: Path | str, model: nn.Module, config: dict[str, Any]) -> None:
    """Write a model's weights, the same bytes for the same; config: resolved, with its `model` node."""
    write_bytes(path, weights_bytes(model, config))


def weights_bytes(model: nn.Module, config: dict[str, Any], dtype: torch.dtype | None = None) -> bytes:
    """Return the content of a weights file; dtype: what floating-point weights are rounded to, None keeps theirs."""
    state: dict[str, Tensor] = {}
    seen: set[int] = set()
    for key, value in model.state_dict().items():
        value = value.detach().cpu().contiguous()
        value = value.to(dtype) if dtype is not None and value.is_floating_point() else value
        # A tied module keeps both published names; safetensors wants each tensor in memory of its own.
        state[key] = value.clone() if value.data_ptr() in seen else value
        seen.add(value.data_ptr())
    metadata = {"format": FORMAT, "config": json.dumps(config, sort_keys=True)}
    return ordered(save(state, metadata=metadata))


def ordered(content: bytes) -> bytes:
    """Sort the header's metadata, which safetensors writes in an order that differs from process to process, and add
    the checksum of the tensors, which `require_whole` compares."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted({**header["__metadata__"], TENSORS: checksum_of(content, end)}.items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[end:]


def load_weights(path: Path | str) -> tuple[ViewModel, dict[str, Any]]:
    """Rebuild the model of a weights file on the CPU, in evaluation mode; return it and its training configuration.

    Raises CheckpointError for a missing or damaged file, or one whose weights do not fit its own configuration."""
    config = read_config(path)
    model = build(model_config(path, config["model"]))
    state = read_state(path)
    match_keys(path, state, model.state_dict())
    model.load_state_dict(state)
    return model.eval(), config
