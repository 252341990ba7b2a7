"""What a weights file says of itself, read without torch: the resolved configuration of its training."""

import json
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError, safe_open

from novelview.config.compose import MODELS
from novelview.config.keys import validate
from novelview.config.models import ModelConfig
from novelview.errors import CheckpointError, ConfigError

FORMAT = "novelview-1"


class ForeignWeightsError(CheckpointError):
    """A weights file without a header of ours: published, or damaged beyond reading."""


def read_config(path: Path | str) -> dict[str, Any]:
    """Return the resolved training configuration in the header of a weights file, without loading the weights.

    Raises CheckpointError for a missing or damaged file, and ForeignWeightsError for one that is not ours.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: no such file; run the training stage that makes it, or correct the path")
    try:
        with safe_open(str(path), "np") as stream:
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


def dtypes(path: Path | str) -> set[str]:
    """Return the kinds of numbers in a weights file that `read_config` accepts, as safetensors names them: `BF16`."""
    with safe_open(str(path), "np") as stream:
        return {stream.get_slice(key).get_dtype() for key in stream.keys()}  # noqa: SIM118 - no mapping


def model_config(path: Path | str, node: dict[str, Any]) -> ModelConfig:
    """Return the configuration of a weights file's model from its header's `model` node, without backbones to load.

    Raises CheckpointError for an unknown model, and for a node this version cannot read.
    """
    name = node.get("name")
    if name not in MODELS:
        raise CheckpointError(f"{path}: weights of the unknown model '{name}'; this version knows {', '.join(MODELS)}")
    if isinstance(node.get("dino"), dict):
        node = {**node, "dino": {**node["dino"], "weights": None}}
    if "match_weights" in node:
        node = {**node, "match_weights": None}
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(MODELS[name]), node))
        validate(config)
    except (OmegaConfBaseException, ConfigError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: written by another version of novelview ({first}); train again") from None
    assert isinstance(config, ModelConfig)
    return config
