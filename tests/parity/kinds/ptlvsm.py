"""PT-LVSM against the reference: values, losses, gradients, one update, video."""

from pathlib import Path
from typing import Any

import torch
from transformer_fixture import (
    compare,
    dino_config,
    load_model,
    load_views,
    transformer_config,
    verify_context_video,
    verify_eval_loss,
    verify_training_step,
)

from novelview.cameras.camera import plucker
from novelview.config.models import PTLVSMConfig
from novelview.models.layers import run_blocks
from novelview.models.ptlvsm import PTLVSM


def _model(folder: Path, config: dict[str, Any]) -> PTLVSM:
    cfg = PTLVSMConfig(
        patch_size=config["config"]["model"]["target_pose_tokenizer"]["patch_size"],
        transformer=transformer_config(config),
        dino=dino_config(config),
        n_layer=config["config"]["model"]["transformer"]["n_layer"],
        canonical_camera=config["config"].get("unposed", {}).get("canonical_camera", False),
    )
    model = load_model(folder, cfg)
    assert isinstance(model, PTLVSM)
    return model


@torch.no_grad()
def check_outputs(folder: Path, config: dict[str, Any]) -> None:
    model = _model(folder, config)
    context, target = load_views(folder, config, "eval")
    assert context.images is not None
    height, width = context.images.shape[-2:]
    tokens = model.image_tokenizer(context.images.flatten(0, 1)).unflatten(0, context.images.shape[:2])
    marker = plucker(model.cameras(context, context.c2w)[:, 0], context.intrinsics[:, 0], height, width)
    rays = plucker(model.cameras(context, target.c2w), target.intrinsics, height, width)
    queries = model.target_pose_tokenizer(rays.flatten(0, 1))
    scene = model.encode(context)
    sequence = torch.cat([scene.repeat_interleave(rays.shape[1], dim=0), queries], dim=1)
    normed = model.transformer_input_layernorm(sequence)
    ours = {
        "blocks_input_after_ln_first": normed,
        "blocks_output_target_tokens": run_blocks(model.transformer_blocks, normed, False)[:, scene.shape[1] :],
        "canonical_pose_cond_view0": marker,
        "canonical_pose_tokens_view0": model.canonical_pose_tokenizer(marker),
        "input_image_tokens": tokens,
        "render": model(context, target).images,
        "target_pose_cond_first": rays,
        "target_pose_tokens": queries.unflatten(0, rays.shape[:2]),
    }
    compare(folder, ours)


def check_train_step(folder: Path, config: dict[str, Any]) -> None:
    verify_training_step(folder, config, _model(folder, config))


def check_evaluation_loss(folder: Path, config: dict[str, Any]) -> None:
    verify_eval_loss(folder, config, _model(folder, config))


@torch.no_grad()
def check_video(folder: Path, config: dict[str, Any]) -> None:
    """Frames between the input cameras, first scene."""
    verify_context_video(folder, config, _model(folder, config))
