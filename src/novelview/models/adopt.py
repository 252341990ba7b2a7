"""Published checkpoints made weights of this project, so that evaluating, finetuning and publishing treat all alike."""

import logging
from pathlib import Path
from typing import Any

from novelview.config.checkpoints import ForeignWeightsError, read_config
from novelview.config.digest import resolved
from novelview.config.stages import AdoptStage
from novelview.downloads.fetch import fetch
from novelview.downloads.registry import read_registry
from novelview.errors import CheckpointError, ConfigError
from novelview.files import sha256
from novelview.models.dinov2 import without_weights
from novelview.models.published import load_published
from novelview.models.registry import build
from novelview.models.weights import save_weights

log = logging.getLogger(__name__)


def adopt(cfg: AdoptStage) -> None:
    """Write the checkpoint `cfg.name` (fetched) or `cfg.file` to `cfg.io["out"]` with a header that describes it.

    Every weight must fit the configured model; the frozen networks of the loss, the optimizer and whatever else a
    training state holds are left out. The header is the resolved configuration and `adopted`, where it came from.
    Raises CheckpointError for a file that does not fit, ConfigError unless exactly one of name and file is given,
    DataError when the checkpoint cannot be fetched.
    """
    source = _source(cfg)
    if not source.is_file():
        raise CheckpointError(f"{source}: no such file; give the path of a downloaded checkpoint as file=...")
    model = build(without_weights(cfg.model))
    load_published(source, model)
    save_weights(cfg.io["out"], model, header(cfg, source))
    log.info("%s: %s at %d px, from %s", cfg.io["out"], cfg.model.name, cfg.views.image_size, source)


def _source(cfg: AdoptStage) -> Path:
    if bool(cfg.name) == bool(cfg.file):
        raise ConfigError("adopt: give either name=ENTRY of conf/registry.yaml or file=CHECKPOINT")
    return fetch(cfg.name) if cfg.name else Path(str(cfg.file)).expanduser()


def header(cfg: AdoptStage, source: Path) -> dict[str, Any]:
    """Return what the weights file says of itself: where it lay on this machine is left out."""
    config = {key: value for key, value in resolved(cfg).items() if key not in ("name", "file")}
    facts: dict[str, Any] = {"name": cfg.name, "file": source.name, "sha256": sha256(source)}
    theirs = _released(source)
    if theirs:
        facts["origin"] = f"{theirs['name']}, released with novelview"
    if cfg.name:
        entry = read_registry()[cfg.name]
        facts |= {"origin": entry.addresses[0], "licence": entry.licence, "citation": entry.citation}
    return {**config, "adopted": facts}


def _released(source: Path) -> dict[str, Any]:
    try:
        return read_config(source).get("released", {})
    except ForeignWeightsError:
        return {}
