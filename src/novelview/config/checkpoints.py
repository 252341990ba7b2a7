"""What weights files say of themselves, read without torch, and the checkpoints released with the project.

The header of a weights file holds the resolved configuration of its training; `released/{name}/` is a checkpoint."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError, safe_open

from novelview.config.compose import MODELS
from novelview.config.keys import refuse, validate
from novelview.config.models import ModelConfig
from novelview.errors import CheckpointError, ConfigError, NovelviewError, raise_exhausted
from novelview.files import sha256

FORMAT = "novelview-1"
TENSORS = "tensors"  # key of a header's metadata: SHA-256 of all that follows the header
FOLDER = "released"  # in the working directory, as data/ and results/ are
WEIGHTS = "model.safetensors"
CARD = "README.md"
LIMIT = 16_000_000  # bytes of a released file, so that git and its hosts take it
NAME = re.compile(r"[a-z0-9_]+")
INITIAL = (  # keys that choose initial values alone: weights of one choice fit a model of another
    *("dino.weights", "dino.patch_std", "dino.patch_centred", "dino.pos_init", "dino.pos_gain"),
    *("transformer.init_gain", "transformer.qk_norm_init", "pose_head_std", "pose_identity_bias"),
    *("decoder_init_last_only", "init_gain"),
    *("match_weights", "gaussian.second_channel_bias"),
    # what DepthSplat is trained and used with at will, none of which shapes a weight
    *("near", "far", "rasterizer", "supervise_all_scales", "transformer_nearest_views", "cost_volume_nearest_views"),
    *("gaussian.offset_mode", "gaussian.offset_factor", "gaussian.scale_min", "gaussian.scale_max"),
)


class ForeignWeightsError(CheckpointError):
    """A weights file without a header of ours: published, or damaged beyond reading."""


@dataclass(frozen=True)
class Released:
    """One released checkpoint; config: the resolved training configuration in its header; sha256: of its file."""

    name: str
    weights: str
    config: dict[str, Any]
    sha256: str

    @property
    def model(self) -> str:
        """Registry name of its model."""
        return str(self.config["model"]["name"])


def read_config(path: Path | str) -> dict[str, Any]:
    """Return the resolved training configuration in the header of a weights file, without loading the weights.

    Raises CheckpointError for a missing or damaged file, and ForeignWeightsError for one that is not ours."""
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: no such file; run the training stage that makes it, or correct the path")
    try:
        with safe_open(str(path), "np") as stream:
            metadata = stream.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise_exhausted(error, path)
        raise ForeignWeightsError(
            f"{path}: no weights of novelview, or damaged ({str(error)[:80]}); published ones go through stage adopt"
        ) from None
    if metadata.get("format") != FORMAT:
        raise ForeignWeightsError(f"{path}: not weights written by novelview; published ones: stage adopt, or io.init")
    try:
        config = json.loads(metadata.get("config", ""))
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise CheckpointError(f"{path}: the configuration in its header is damaged; make it again")
    return config


def require_whole(path: Path | str) -> None:
    """Raise CheckpointError for a safetensors file whose tensors are not those that the checksum in its header is of.

    Files without one, of other programs and of earlier versions, pass: nothing says what they held."""
    with open(path, "rb"):  # safetensors calls a file missing where handles ran out
        pass
    try:
        with safe_open(str(path), "np") as stream:
            wanted = (stream.metadata() or {}).get(TENSORS)
    except (SafetensorError, OSError):
        return  # whoever reads it says what is wrong
    if wanted:
        content = np.memmap(path, np.uint8, "r")
        if checksum_of(content, 8 + int.from_bytes(content[:8].tobytes(), "little")) != wanted:
            raise CheckpointError(f"{path}: its tensors changed since they were written; make it or fetch it again")


def checksum_of(content: Any, start: int) -> str:
    """Return the hex SHA-256 of the bytes of a buffer from `start` on."""
    return hashlib.sha256(memoryview(content)[start:]).hexdigest()


def model_config(path: Path | str, node: dict[str, Any]) -> ModelConfig:
    """Return the configuration of a weights file's model from its header's `model` node, without backbones to load.

    Raises CheckpointError for an unknown model, and for a node this version cannot read."""
    name = node.get("name")
    if name not in MODELS:
        raise CheckpointError(f"{path}: weights of the unknown model '{name}'; this version knows {', '.join(MODELS)}")
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(MODELS[name]), node))
        validate(config)
    except (OmegaConfBaseException, ConfigError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise CheckpointError(f"{path}: written by another version of novelview ({first}); train again") from None
    assert isinstance(config, ModelConfig)
    return config.without_weights()


def model_code(config: Any) -> str:
    """Return the class that a stage of this configuration builds, of its `model` or of the weights it reads."""
    weights = config.io.get("weights")
    if not hasattr(config, "model") and weights:
        return model_config(weights, read_config(weights)["model"]).code
    return getattr(getattr(config, "model", None), "code", "")


def difference(theirs: dict[str, Any], ours: dict[str, Any]) -> str | None:
    """Return the first key in which two model nodes differ, with both values; initial values do not count."""
    left, right = _flat(theirs), _flat(ours)
    for key in sorted({*left, *right} - {*INITIAL}, key=lambda key: (key != "name", key)):
        if left.get(key) != right.get(key):
            return f"model.{key} is {left.get(key)} there and {right.get(key)} here"
    return None


def _flat(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat


def require_name(name: str, key: str) -> None:
    """Raise ConfigError unless `name` can be a folder of released/."""
    refuse(not NAME.fullmatch(name), f"{key}={name}: a released checkpoint is named with small letters, digits and _")


def released_checkpoints(folder: Path | str = FOLDER) -> list[Released]:
    """Return the checkpoints in `folder` by name, each checked; an empty folder, which a killed call leaves, is none.

    Raises ConfigError, one line with what to do, for a folder without weights or card, and for weights that are
    damaged, too large, not bfloat16, of no model known here, without a header of ours, or not those of their card."""
    paths = sorted(Path(folder).glob("[!.]*"))
    return [released_checkpoint(path) for path in paths if path.is_dir() and any(path.iterdir())]


def released_checkpoint(folder: Path) -> Released:
    """Return the checkpoint in a folder of released/; raises ConfigError as `released_checkpoints` does."""
    weights = folder / WEIGHTS
    try:
        require_name(folder.name, str(folder.parent))
        problem = next(_problems(folder), None)
        if problem:
            raise ConfigError(f"{weights}: {problem}")
        return Released(folder.name, str(weights), read_config(weights), sha256(weights))
    except (NovelviewError, OSError) as error:
        cure = f"`git checkout {folder}` brings back what was committed, or remove the folder (docs/publishing.md)"
        raise ConfigError(f"{error}; {cure}") from None


def _problems(folder: Path) -> Iterator[str]:
    """Yield what is wrong, cheap things first; raises CheckpointError for a header that is not ours or of no model."""
    weights, card = folder / WEIGHTS, folder / CARD
    if not weights.is_file():
        yield "missing"
    size = weights.stat().st_size
    if size > LIMIT:
        yield f"has {size / 1e6:.1f} MB, and a released file at most {LIMIT / 1e6:.0f}"
    config = read_config(weights)
    model_config(weights, config["model"])
    missing = [key for key in ("views", "train", "phase", "dataset") if not config.get(key)]
    if missing:
        yield f"its header does not say '{missing[0]}'"
    if not _says_how_it_was_trained(config):
        yield "its header does not say how it was trained"
    with safe_open(str(weights), "np") as stream:
        kinds = {stream.get_slice(key).get_dtype() for key in stream.keys()}  # noqa: SIM118 - no mapping
    if kinds & {"F32", "F64", "F16"}:
        yield f"holds numbers of kind {min(kinds & {'F32', 'F64', 'F16'})}; stage compact rounds weights to bfloat16"
    if not card.is_file():
        yield f"has no model card {CARD} beside it"
    if sha256(weights) not in card.read_text("utf-8", "replace"):
        yield f"{CARD} beside it is of other weights (its SHA-256 is not there): damaged, or replaced without its card"


def _says_how_it_was_trained(config: dict[str, Any]) -> bool:
    """Tell whether a header's `released` names what the report and the card print of every phase."""
    try:
        phases = config.get("released", {"phases": [{**config["train"], "size": ""}]})["phases"]
        return all(int(one["steps"]) * one["batch_size"] * one["grad_accum"] and "size" in one for one in phases)
    except (KeyError, TypeError, ValueError):
        return False
