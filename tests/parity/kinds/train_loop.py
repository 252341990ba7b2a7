"""The reference's own training loop, step by step: our recipe on its batches must walk the same trajectory."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformer_fixture import dino_config, lvsm_options, transformer_config

from novelview.config.models import (
    LVSMDecoderOnlyConfig,
    LVSMEncoderDecoderConfig,
    ModelConfig,
    PTLVSMConfig,
    UPLVSMConfig,
)
from novelview.config.schema import LossConfig, TrainConfig
from novelview.devices import Team
from novelview.losses.photometric import TrainingLoss
from novelview.models.published import load_published
from novelview.models.registry import build
from novelview.scenes.batch import Batch, Views
from novelview.training.loop import Stepper
from novelview.training.optim import Update

LOSS_ATOL = 6e-7  # the reference's logger rounds to 6 decimals
NORM_RTOL = 2e-5  # of gradients, before clipping
WEIGHT_RTOL = 4e-7  # of final parameter norms


def _record(folder: Path) -> dict[str, Any]:
    record = json.loads((folder / "trajectory.json").read_text())
    return {**record, "config": record["config"].get("parameters", record["config"])}  # LVSM has no such wrapper


def _model(record: dict[str, Any]) -> ModelConfig:
    node = record["config"]["model"]
    sizes = node["transformer"]
    if "LVSM_scene" in node["class_name"]:
        return _lvsm(record, sizes)
    shared = {"patch_size": node["image_tokenizer"]["patch_size"], "dino": dino_config(record)}
    if node["class_name"].endswith("unposedLVSM"):
        names = ("encoder_n_layer", "estimator_n_layer", "decoder_n_layer", "n_latent_vectors")
        return UPLVSMConfig(transformer=transformer_config(record), **shared, **{name: sizes[name] for name in names})
    assert node["class_name"].endswith("posedTargetLVSM"), f"unknown model {node['class_name']}"
    return PTLVSMConfig(transformer=transformer_config(record), **shared, n_layer=sizes["n_layer"])


def _lvsm(record: dict[str, Any], sizes: dict[str, Any]) -> ModelConfig:
    if "n_layer" in sizes:
        return LVSMDecoderOnlyConfig(**lvsm_options(record), n_layer=sizes["n_layer"])
    names = ("encoder_n_layer", "decoder_n_layer", "n_latent_vectors")
    return LVSMEncoderDecoderConfig(**lvsm_options(record), **{name: sizes[name] for name in names})


def _recipe(record: dict[str, Any]) -> TrainConfig:
    node = record["config"]["training"]
    names = ("lr", "warmup", "beta1", "beta2", "weight_decay", "allowed_gradnorm_factor")
    weights = LossConfig(*(node[f"{name}_loss_weight"] for name in ("l2", "perceptual", "lpips")))
    return TrainConfig(
        **{name: node[name] for name in names},
        steps=node["train_steps"],
        clip_norm=node["grad_clip_norm"],
        grad_accum=node["grad_accum_steps"],
        amp=node["amp_dtype"] if node["use_amp"] else "none",
        losses=weights,
    )


def _batches(folder: Path, record: dict[str, Any]) -> list[Batch]:
    tensors = load_file(folder / "batches.safetensors")
    count = len({name.partition(".")[0] for name in tensors})
    contexts = record["config"]["training"]["num_input_views"]
    batches = []
    for step in range(count):
        views = Views(*(tensors[f"step{step}.{name}"] for name in ("image", "c2w", "fxfycxcy")))
        target = views.take(tensors[f"step{step}.target_index"])
        batches.append(Batch([""] * len(views.c2w), views.span(0, contexts), target))
    return batches


def _stepper(folder: Path, record: dict[str, Any]) -> Stepper:
    cfg = _recipe(record)
    model = build(_model(record))
    load_published(folder / "init_weights.safetensors", model)
    return Stepper(model, TrainingLoss(cfg.losses), cfg, Team(0, 1, torch.device("cpu")))


def check_trajectory(folder: Path, config: dict[str, Any]) -> None:
    """Loss, gradient norm, learning rate, skipped updates and their count at every iteration; the final weights."""
    record = _record(folder)
    stepper, batches = _stepper(folder, record), _batches(folder, record)
    assert len(batches) == len(record["steps"]) == record["n_iterations_run"]
    for batch, theirs in zip(batches, record["steps"], strict=True):
        values, update = stepper.step([batch])
        _compare_step(theirs, values["loss"], update, stepper)
        if theirs["iter"] == record["ckpt_fwdbwd_pass_step"]:
            _compare_checkpoint(record, stepper)


def _compare_step(theirs: dict[str, Any], loss: float, update: Update, stepper: Stepper) -> None:
    where = f"iteration {theirs['iter']}"
    assert loss == pytest.approx(theirs["loss"], abs=LOSS_ATOL, rel=0), where
    assert update.grad_norm == pytest.approx(theirs["grad_norm"], rel=NORM_RTOL), where
    assert stepper.updater.lr == pytest.approx(theirs["lr_after_step"], rel=1e-12, abs=1e-18), where
    assert stepper.updater.applied == theirs["param_update_step"], where
    limit = stepper.cfg.clip_norm * stepper.cfg.allowed_gradnorm_factor
    assert (update.skipped == "norm") == (theirs["grad_norm"] > limit), where


def _compare_checkpoint(record: dict[str, Any], stepper: Stepper) -> None:
    assert stepper.updater.applied == record["ckpt_param_update_step"]
    assert stepper.updater.scheduled == record["ckpt_lr_scheduler_last_epoch"]
    norms = {name: value.norm().item() for name, value in stepper.model.state_dict().items()}
    theirs = record["final_param_norm_at_checkpoint"]
    assert set(norms) == set(theirs)
    for name, norm in theirs.items():
        assert norms[name] == pytest.approx(norm, rel=WEIGHT_RTOL, abs=1e-7), name


def check_decay_groups(folder: Path, config: dict[str, Any]) -> None:
    """As many parameters with and without weight decay as the reference's optimizer has."""
    record = _record(folder)
    groups = _stepper(folder, record).optimizer.param_groups
    ours = [{"weight_decay": group["weight_decay"], "n": len(group["params"])} for group in groups]
    assert ours == record["optimizer_groups"]


def check_iterations(folder: Path, config: dict[str, Any]) -> None:
    """The default recipe keeps the reference's extra iteration, which the kept weights do not contain."""
    record = _record(folder)
    cfg = _recipe(record)
    assert cfg.steps + int(cfg.extra_iteration) == record["n_iterations_run"]
    assert cfg.steps == record["ckpt_fwdbwd_pass_step"]
