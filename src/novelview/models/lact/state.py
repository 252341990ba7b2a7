"""Scene states on disk: a scene is learnt once and viewed many times, by the very weights that learnt it."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save

from novelview.config.compose import digest_of
from novelview.config.difference import difference
from novelview.errors import CheckpointError
from novelview.files import write_bytes
from novelview.models.lact.model import LaCT, SceneState
from novelview.models.lact.ttt import FastWeights
from novelview.models.published import match_keys
from novelview.models.weights import ordered

FORMAT = "novelview-scene-1"


def save_state(path: Path | str, state: SceneState, model: LaCT) -> None:
    """Write a state atomically: weights `blocks.{i}.w0|w1|w2`, [scenes*heads ...] each.

    The header holds the model's configuration and its digest, and the digest of the weights that learnt the scene. The
    same state gives the same bytes.
    """
    config = asdict(model.cfg)
    metadata = {
        "format": FORMAT,
        "config": json.dumps(config, sort_keys=True),
        "config_digest": digest_of(config),
        "weights_digest": weights_digest(model),
        "scenes": str(state.scenes),
    }
    write_bytes(path, ordered(save(_tensors(state), metadata=metadata)))


def load_state(path: Path | str, model: LaCT) -> SceneState:
    """Read a state that `model` learnt, onto the model's device.

    Raises CheckpointError, one line, for a missing or damaged file and for a state of another model, size or weights.
    """
    header = _header(path)
    other = difference(json.loads(header["config"]), asdict(model.cfg))
    if other:
        raise CheckpointError(f"{path}: a scene of another model: {other}; reconstruct it with this model")
    if header["weights_digest"] != weights_digest(model):
        raise CheckpointError(f"{path}: a scene learnt by other weights of this model; reconstruct it with these")
    scenes, tensors = int(header["scenes"]), load_file(path)
    match_keys(path, tensors, _tensors(model.blank(scenes)))
    names = FastWeights._fields
    device = next(model.parameters()).device
    blocks = [
        FastWeights(*(tensors[f"blocks.{number}.{name}"].to(device) for name in names))
        for number in range(len(model.blocks))
    ]
    return SceneState(blocks, scenes)


def _header(path: Path | str) -> dict[str, str]:
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: no such file; reconstruct the scene first, or correct the path")
    try:
        with safe_open(str(path), "pt") as stream:
            header = stream.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: no scene state, or damaged ({str(error)[:80]}); reconstruct it") from None
    if header.get("format") != FORMAT or not header.get("scenes", "").isdecimal():
        raise CheckpointError(f"{path}: not a scene state; give the file that a reconstruction wrote")
    return header


def _tensors(state: SceneState) -> dict[str, torch.Tensor]:
    return {
        f"blocks.{number}.{name}": w.detach().cpu().contiguous()
        for number, block in enumerate(state.blocks)
        for name, w in block._asdict().items()
    }


def weights_digest(model: LaCT) -> str:
    """Return 16 hex digits over the names and bytes of all weights."""
    total = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        total.update(f"{name}\0{value.dtype}\0".encode())
        total.update(value.detach().cpu().contiguous().view(torch.uint8).numpy())
    return total.hexdigest()[:16]
