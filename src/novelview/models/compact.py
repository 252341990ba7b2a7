"""Weights small enough for git: rounded to bfloat16, with a header that says of what they are the rounding."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from novelview.config.checkpoints import LIMIT, read_config
from novelview.config.schema import Resolution
from novelview.errors import CheckpointError
from novelview.files import sha256, write_bytes
from novelview.models.weights import load_weights, weights_bytes

log = logging.getLogger(__name__)


def compact(weights: Path, before: Sequence[Path], name: str, out: Path) -> None:
    """Write `weights` in bfloat16 to `out`: the nearest of its numbers to each float32 weight, ties to even.

    The header is that of `weights`, and `released`: the name, the SHA-256 of `weights`, and how it was trained, phase
    by phase, `before` being the weights of earlier phases. The same input gives the same bytes. Raises CheckpointError,
    one line, for unusable weights, for rounded or adopted ones, and for more than 16 MB (16,000,000 bytes).
    """
    model, config = load_weights(weights)
    _require_trained(weights, config)
    chain = [*((path, read_config(path)) for path in before), (weights, config)]
    facts = {"name": name, "dtype": "bfloat16", "sha256": sha256(weights), "phases": [_phase(*one) for one in chain]}
    content = weights_bytes(model, {**config, "released": facts}, torch.bfloat16)
    if len(content) > LIMIT:
        raise CheckpointError(
            f"{weights}: {len(content) / 1e6:.1f} MB in bfloat16, and a released file has at most {LIMIT / 1e6:.0f}; "
            "release a smaller model"
        )
    write_bytes(out, content)
    log.info("%s: %.1f MB, %s in bfloat16", out, len(content) / 1e6, weights)


def _require_trained(weights: Path, config: dict[str, Any]) -> None:
    if "released" in config:
        raise CheckpointError(f"{weights}: already rounded, as {config['released']['name']}; give what was trained")
    if "adopted" in config:
        raise CheckpointError(f"{weights}: adopted, not trained here; stage publish writes a folder of such weights")


def _phase(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Return what a training did, for the card: data, image size, steps and scenes a step of one process."""
    try:
        train, views = config["train"], config["views"]
        size = str(Resolution(views["image_size"], views["image_width"] or views["image_size"]))
        told = {key: config[key] for key in ("scale", "phase", "dataset", "subset")}
        return {**told, "size": size, **{key: train[key] for key in ("steps", "batch_size", "grad_accum")}}
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: its header lacks {error} of its training; train it again") from None
