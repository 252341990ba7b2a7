"""What a run begins with: the model, perhaps earlier weights, and the run's identity."""

import hashlib
import json
import logging
from pathlib import Path

import torch
from torch import nn

from novelview.config.checkpoints import ForeignWeightsError, difference, read_config
from novelview.config.digest import digest, resolved, source_digest
from novelview.config.stages import TrainStage
from novelview.errors import CheckpointError
from novelview.files import read_json, sha256
from novelview.models.dinov2 import without_weights
from novelview.models.published import load_published
from novelview.models.registry import build
from novelview.training.distributed import Team

log = logging.getLogger(__name__)


def seed_everything(seed: int) -> None:
    """Seed torch's generators on every device; nothing in training draws from another."""
    torch.manual_seed(seed)


def allow_tf32(allowed: bool) -> None:
    """Let GPUs multiply fp32 matrices in TF32."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def build_model(cfg: TrainStage, team: Team) -> nn.Module:
    """Build the configured model on the team's device, from earlier weights (`io.init`) when given.

    Every process builds the same model. Raises CheckpointError when the weights are another model's.
    """
    start = Path(cfg.io["init"]) if cfg.io.get("init") else None
    seed_everything(cfg.train.seed)
    model = build(without_weights(cfg.model) if start else cfg.model)
    if start:
        load_init(model, cfg, start)
    if team.leads:
        log.info("starting point: %s", _origin(cfg, start))
    seed_everything(cfg.train.seed + team.rank)
    allow_tf32(cfg.train.tf32)
    model.activation_checkpointing = cfg.train.activation_checkpointing
    model = model.to(team.device)
    if cfg.train.compile:
        model.compile()
    return model


def compare_depths(cfg: TrainStage) -> None:
    """Warn of scenes that reach before the near or behind the far plane of a model that has them."""
    planes = getattr(cfg.model, "near", None), getattr(cfg.model, "far", None)
    seen = read_json(Path(cfg.io["packed"]) / "manifest.json").get("depth_range")
    if None in planes or not seen or (planes[0] <= seen[0] and seen[1] <= planes[1]):
        return
    log.warning(
        "model.near=%g, model.far=%g: what the photographs see lies between %.3g and %.3g, in the units of their"
        " cameras, and nothing can be placed outside of these planes; give model.near and model.far around that",
        *planes,
        *seen,
    )


def _origin(cfg: TrainStage, start: Path | None) -> str:
    named = getattr(getattr(cfg.model, "dino", None), "weights", None), getattr(cfg.model, "match_weights", None)
    weights = " and ".join(name for name in named if name)
    if start or weights:
        return str(start or f"public backbone weights in {weights}, everything else from scratch")
    return "everything from scratch (neither io.init nor model.dino.weights is set)"


def load_init(model: nn.Module, cfg: TrainStage, path: Path) -> None:
    """Copy weights from `path`: ours, whose header must describe this model, or a published checkpoint."""
    try:
        theirs = read_config(path)["model"]
    except ForeignWeightsError:  # a published file, or a damaged one, which load_published tells apart
        theirs = None
    other = difference(theirs, resolved(cfg)["model"]) if theirs else None
    if other:
        raise CheckpointError(f"{path}: weights of another model: {other}; choose the weights or the model to fit")
    load_published(path, model)


def identity(cfg: TrainStage) -> str:
    """Return 16 hex digits over all that the weights depend on: configuration, code, data and the starting weights.

    Raises CheckpointError when there are no such starting weights.
    """
    init = cfg.io.get("init")
    if init and not Path(init).is_file():
        raise CheckpointError(f"{init}: no such file; io.init names the weights to start from")
    parts = {
        "config": digest(cfg),
        "code": source_digest("train"),
        "data": sha256(Path(cfg.io["packed"]) / "manifest.json"),
        "init": sha256(init) if init else None,
    }
    if cfg.train.losses.pointmap.weight and cfg.io.get("pointmaps"):
        parts["pointmaps"] = sha256(Path(cfg.io["pointmaps"]) / "manifest.json")
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
