"""Final weights: safetensors with the resolved configuration in the header, so a file alone rebuilds its model."""

import json
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from novelview.config.models import ModelConfig
from novelview.config.validate import validate
from novelview.errors import CheckpointError, ConfigError
from novelview.files import write_bytes
from novelview.models.published import match_keys, read_state
from novelview.models.registry import MODELS, build
from novelview.models.render import ViewModel

FORMAT = "novelview-1"


class ForeignWeightsError(CheckpointError):
    """A weights file without a header of ours: published, or damaged beyond reading."""


def save_weights(path: Path | str, model: nn.Module, config: dict[str, Any]) -> None:
    """Write a model's weights atomically; `config` is the resolved training configuration with its `model` node.

    The same weights and configuration give the same bytes.
    """
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    metadata = {"format": FORMAT, "config": json.dumps(config, sort_keys=True)}
    write_bytes(path, ordered(save(_without_aliases(state), metadata=metadata)))


def ordered(content: bytes) -> bytes:
    """Sort the header's metadata, which safetensors writes in an order that differs from process to process."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[end:]


def _without_aliases(state: dict[str, Any]) -> dict[str, Any]:
    """Copy tensors that share memory with an earlier one: a tied module keeps both published names."""
    seen: set[int] = set()
    own = {}
    for key, value in state.items():
        own[key] = value.clone() if value.data_ptr() in seen else value
        seen.add(value.data_ptr())
    return own


def read_config(path: Path | str) -> dict[str, Any]:
    """Return the resolved training configuration in the header of a weights file, without loading the weights.

    Raises CheckpointError for a missing or damaged file, and ForeignWeightsError for one that is not ours.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: no such file; run the training stage that makes it, or correct the path")
    try:
        with safe_open(str(path), "pt") as stream:
            metadata = stream.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ForeignWeightsError(
            f"{path}: no weights of novelview, or damaged ({str(error)[:80]}); published ones go through stage adopt"
        ) from None
    if metadata.get("format") != FORMAT:
        raise ForeignWeightsError(
            f"{path}: not weights written by novelview; published ones go through stage adopt or to io.init"
        )
    return _parsed(path, metadata.get("config", ""))


def _parsed(path: Path | str, text: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise CheckpointError(f"{path}: the configuration in its header is damaged; make it again")
    return config


def load_weights(path: Path | str) -> tuple[ViewModel, dict[str, Any]]:
    """Rebuild the model of a weights file on the CPU, in evaluation mode; return it and its training configuration.

    Raises CheckpointError for a missing or damaged file, or one whose weights do not fit its own configuration.
    """
    config = read_config(path)
    model = build(_model_config(path, config["model"]))
    state = read_state(path)
    match_keys(path, state, model.state_dict())
    model.load_state_dict(state)
    return model.eval(), config


def _model_config(path: Path | str, node: dict[str, Any]) -> ModelConfig:
    name = node.get("name")
    if name not in MODELS:
        raise CheckpointError(f"{path}: weights of the unknown model '{name}'; this version knows {', '.join(MODELS)}")
    if isinstance(node.get("dino"), dict):
        node = {**node, "dino": {**node["dino"], "weights": None}}
    if "match_weights" in node:
        node = {**node, "match_weights": None}
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(MODELS[name][0]), node))
        validate(config)
    except (OmegaConfBaseException, ConfigError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: written by another version of novelview ({first}); train again") from None
    assert isinstance(config, ModelConfig)
    return config
