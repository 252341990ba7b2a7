"""LVSM decoder-only against the reference: values, losses, gradients, one update, video."""

from pathlib import Path
from typing import Any

import torch
from transformer_fixture import (
    compare,
    load_model,
    load_views,
    lvsm_options,
    lvsm_tokens,
    verify_context_video,
    verify_eval_loss,
    verify_training_step,
)

from novelview.config.models import LVSMDecoderOnlyConfig
from novelview.models.layers import run_blocks
from novelview.models.lvsm import LVSMDecoderOnly


def _model(folder: Path, config: dict[str, Any]) -> LVSMDecoderOnly:
    layers = config["config"]["model"]["transformer"]["n_layer"]
    model = load_model(folder, LVSMDecoderOnlyConfig(**lvsm_options(config), n_layer=layers))
    assert isinstance(model, LVSMDecoderOnly)
    return model


@torch.no_grad()
def check_outputs(folder: Path, config: dict[str, Any]) -> None:
    model = _model(folder, config)
    context, target = load_views(folder, config, "eval")
    values, queries = lvsm_tokens(model, context, target)
    scene = model.encode(context).repeat_interleave(target.c2w.shape[1], dim=0)
    normed = model.transformer_input_layernorm(torch.cat([scene, queries], dim=1))
    ours = {
        "blocks_input_after_ln_first": normed,
        "blocks_output_target_tokens": run_blocks(model.transformer_blocks, normed, False)[:, scene.shape[1] :],
        "render": model(context, target).images,
    }
    compare(folder, ours | values)


def check_train_step(folder: Path, config: dict[str, Any]) -> None:
    verify_training_step(folder, config, _model(folder, config))


def check_evaluation_loss(folder: Path, config: dict[str, Any]) -> None:
    verify_eval_loss(folder, config, _model(folder, config))


@torch.no_grad()
def check_video(folder: Path, config: dict[str, Any]) -> None:
    """Frames between the input cameras, first scene."""
    verify_context_video(folder, config, _model(folder, config))
