"""Weights from elsewhere and for elsewhere: published checkpoints adopted, ours rounded for git, models by name."""

import csv
import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from novelview.config.checkpoints import LIMIT, ForeignWeightsError, read_config
from novelview.config.digest import resolved
from novelview.config.schema import Resolution
from novelview.config.stages import AdoptStage
from novelview.devices import processor_name
from novelview.downloads.fetch import fetch
from novelview.downloads.registry import HubAddress, read_registry
from novelview.downloads.transfer import cached_file
from novelview.errors import CheckpointError, ConfigError
from novelview.files import expanded, sha256, write_bytes
from novelview.models.published import load_published
from novelview.models.registry import build, load_weights, save_weights, weights_bytes
from novelview.models.render import ViewModel

WEIGHTS = "model.safetensors"
log = logging.getLogger(__name__)


def adopt(cfg: AdoptStage) -> None:
    """Write the checkpoint `cfg.name` (fetched) or `cfg.file` to `cfg.io["out"]` with a header that describes it.

    Every weight must fit the configured model; the frozen networks of the loss, the optimizer and whatever else a
    training state holds are left out. The header is the resolved configuration and `adopted`, where it came from.
    Raises CheckpointError for a file that does not fit, ConfigError unless exactly one of name and file is given,
    DataError when the checkpoint cannot be fetched."""
    if bool(cfg.name) == bool(cfg.file):
        raise ConfigError("adopt: give either name=ENTRY of conf/registry.yaml or file=CHECKPOINT")
    source = fetch(cfg.name) if cfg.name else expanded(str(cfg.file))
    if not source.is_file():
        raise CheckpointError(f"{source}: no such file; give the path of a downloaded checkpoint as file=...")
    model = build(cfg.model.without_weights())
    load_published(source, model)
    save_weights(cfg.io["out"], model, _adopted_header(cfg, source))
    log.info("%s: %s at %d px, from %s", cfg.io["out"], cfg.model.name, cfg.views.image_size, source)


def _adopted_header(cfg: AdoptStage, source: Path) -> dict[str, Any]:
    """Return what the weights file says of itself: where it lay on this machine is left out."""
    config = {key: value for key, value in resolved(cfg).items() if key not in ("name", "file")}
    facts: dict[str, Any] = {"name": cfg.name, "file": source.name, "sha256": sha256(source)}
    with suppress(ForeignWeightsError, KeyError):
        facts["origin"] = f"{read_config(source)['released']['name']}, released with novelview"
    if cfg.name:
        entry = read_registry()[cfg.name]
        facts |= {"origin": entry.addresses[0], "licence": entry.licence, "citation": entry.citation}
    return {**config, "adopted": facts}


def compact(weights: Path, before: Sequence[Path], name: str, out: Path) -> None:
    """Write `weights` in bfloat16 to `out`: the nearest of its numbers to each float32 weight, ties to even.

    The header is that of `weights`, and `released`: the name, the SHA-256 of `weights`, and how it was trained, phase
    by phase, `before` being the weights of earlier phases. The same input gives the same bytes. Raises CheckpointError,
    one line, for unusable weights, for rounded or adopted ones, and for more than 16 MB (16,000,000 bytes)."""
    model, config = load_weights(weights)
    if "released" in config:
        raise CheckpointError(f"{weights}: already rounded, as {config['released']['name']}; give what was trained")
    if "adopted" in config:
        raise CheckpointError(f"{weights}: adopted, not trained here; stage publish writes a folder of such weights")
    chain = [*((path, read_config(path)) for path in before), (weights, config)]
    facts = {"name": name, "dtype": "bfloat16", "sha256": sha256(weights), "phases": [_phase(*one) for one in chain]}
    facts |= {"machine": processor_name()} if any("seconds" in one for one in facts["phases"]) else {}
    content = weights_bytes(model, {**config, "released": facts}, torch.bfloat16)
    if len(content) > LIMIT:
        raise CheckpointError(
            f"{weights}: {len(content) / 1e6:.1f} MB in bfloat16, and a released file has at most {LIMIT / 1e6:.0f}; "
            "release a smaller model"
        )
    write_bytes(out, content)
    log.info("%s: %.1f MB, %s in bfloat16", out, len(content) / 1e6, weights)


def _seconds(weights: Path) -> dict[str, float]:
    """Return how long a training took, by the log beside its weights; nothing where there is none."""
    with (
        suppress(OSError, KeyError, ValueError, IndexError),
        open(weights.with_name("train.csv"), newline="") as stream,
    ):
        return {"seconds": round(float(list(csv.DictReader(stream))[-1]["seconds"]), 1)}
    return {}


def _phase(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Return what a training did, for the card: data, image size, steps and scenes a step of one process."""
    try:
        train, views = config["train"], config["views"]
        size = str(Resolution(views["image_size"], views["image_width"] or views["image_size"]))
        facts = {key: config[key] for key in ("scale", "phase", "dataset", "subset")}
        steps = {key: train[key] for key in ("steps", "batch_size", "grad_accum")}
        return {**facts, "size": size, **steps, **_seconds(path)}
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: its header lacks {error} of its training; train it again") from None


def load_pretrained(name: str | Path, revision: str | None = None) -> tuple[ViewModel, dict[str, Any]]:
    """Return a model on the CPU, in evaluation mode, and the configuration it was trained with.

    name: a repository owner/name of the Hugging Face hub, a folder with model.safetensors, or a weights file; what is
    on this machine comes first. revision: branch, tag or commit of a repository (default main). HF_ENDPOINT, HF_TOKEN,
    HF_HOME and HF_HUB_OFFLINE are honoured. Raises DataError when the repository cannot be read, CheckpointError for
    weights that are damaged or not of this project, and for a name that is none of the three."""
    path = expanded(name)
    if path.exists():
        if revision is not None:
            raise CheckpointError(f"{path}: lies on this machine and has no revision {revision}; leave revision out")
        return load_weights(path / WEIGHTS if path.is_dir() else path)
    words = str(name).split("/")
    if len(words) != 2 or not all(words):
        raise CheckpointError(f"{name}: neither a file nor a folder here, nor owner/name of the hub; correct it")
    return load_weights(cached_file(HubAddress(str(name), path=WEIGHTS, revision=revision or "main")))
