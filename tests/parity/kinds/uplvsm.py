"""UP-LVSM against the reference: values, losses, gradients, one update, attention map, video."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from transformer_fixture import (
    RENDER_ATOL,
    close,
    compare,
    dino_config,
    load_model,
    load_views,
    transformer_config,
    verify_eval_loss,
    verify_training_step,
    verify_video,
)

from novelview.cameras.camera import plucker
from novelview.config.models import UPLVSMConfig
from novelview.figures.pictures import overlay
from novelview.models.layers import run_blocks
from novelview.models.uplvsm import UPLVSM


def _model(folder: Path, config: dict[str, Any]) -> UPLVSM:
    node = config["config"]["model"]["transformer"]
    sizes = {name: node[name] for name in ("encoder_n_layer", "estimator_n_layer", "decoder_n_layer")}
    shared = config["config"].get("unposed", {}).get("decoder_as_canonical", False)
    cfg = UPLVSMConfig(
        patch_size=config["config"]["model"]["target_pose_tokenizer"]["patch_size"],
        transformer=transformer_config(config),
        dino=dino_config(config),
        n_latent_vectors=node["n_latent_vectors"],
        decoder_as_canonical=shared,
        **sizes,
    )
    model = load_model(folder, cfg)
    assert isinstance(model, UPLVSM)
    return model


@torch.no_grad()
def check_outputs(folder: Path, config: dict[str, Any]) -> None:
    model = _model(folder, config)
    context, target = load_views(folder, config, "eval")
    assert context.images is not None and target.images is not None
    height, width = context.images.shape[-2:]
    render = model(context, target)
    tokens = [model.image_tokenizer(v.images.flatten(0, 1)).unflatten(0, v.images.shape[:2]) for v in (context, target)]
    identity = torch.eye(4).expand(len(context.images), 4, 4)
    marker = plucker(identity, context.intrinsics[:, 0], height, width)
    encoder_input = model.encoder_input(context)
    rays = plucker(render.extras["pose_c2w"], target.intrinsics, height, width)
    queries = model.target_pose_tokenizer(rays.flatten(0, 1))
    latents = render.extras["latents"]
    repeated = latents.repeat_interleave(rays.shape[1], dim=0)
    normed = model.transformer_input_layernorm_decoder(torch.cat([queries, repeated], dim=1))
    decoded = run_blocks(model.transformer_decoder, normed, False)
    ours = {
        "canonical_pose_cond_view0": marker,
        "canonical_pose_tokens_view0": model.canonical_pose_tokenizer(marker),
        "decoder_input_after_ln_first": normed,
        "decoder_output_target_tokens": decoded[:, : queries.shape[1]],
        "encoder_input": encoder_input,
        "encoder_output": run_blocks(model.transformer_encoder, encoder_input, False),
        "input_image_tokens": tokens[0],
        "latent_tokens": latents,
        "pose_c2w": render.extras["pose_c2w"],
        "pose_enc": render.extras["pose_enc"],
        "render": render.images,
        "target_image_tokens": tokens[1],
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
    """Frames between the estimated cameras of the target images, first scene."""
    if not config.get("video"):
        assert not (folder / "video.safetensors").exists()
        return
    model = _model(folder, config)
    context, target = load_views(folder, config, "eval")
    assert target.images is not None
    c2w = model.estimate_poses(context, target.images)[0]
    verify_video(folder, config, model, context, c2w, target.intrinsics[0])


def check_attention(folder: Path, config: dict[str, Any]) -> None:
    """Attention map of the last encoder layer and the two highlighted views, first scene."""
    if config.get("attn_patch") is None:
        assert not (folder / "attention.safetensors").exists()
        return
    model = _model(folder, config)
    context, _ = load_views(folder, config, "eval")
    assert context.images is not None
    recorded = load_file(folder / "attention.safetensors")
    attention = model.attention_map(context)[: len(recorded["attention_map"])]
    close("attention map", attention, recorded["attention_map"], atol=2e-6)
    views = [image.permute(1, 2, 0).double().numpy() for image in context.images[0]]
    marked = overlay(attention[0].double().numpy(), views[0], views[1], config["attn_patch"], model.patch_size)
    for number, picture in enumerate(marked):
        ours, theirs = torch.from_numpy(picture.astype(np.float32)), recorded[f"highlighted_image_{number}"][0]
        close(f"highlighted view {number}", ours, theirs, atol=100 * RENDER_ATOL)
