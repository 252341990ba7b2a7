"""Efficient-LVSM against the reference: values of every layer, losses, gradients, one update, added views, video."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformer_fixture import (
    close,
    compare,
    load_model,
    load_views,
    transformer_config,
    verify_context_video,
    verify_eval_loss,
    verify_training_step,
)

from novelview.cameras.camera import plucker
from novelview.config.models import LVSMEfficientConfig
from novelview.models.lvsm_efficient import EfficientLVSM

CACHE_ATOL = 5e-6  # specs/efficient_lvsm.md section 14: catches an eps of q and k that renders do not


def _model(folder: Path, config: dict[str, Any]) -> EfficientLVSM:
    node = config["config"]["model"]
    (patch,) = {node[name]["patch_size"] for name in ("image_tokenizer", "target_pose_tokenizer")}
    transformer = transformer_config(config, qk_norm_eps=1e-5)
    cfg = LVSMEfficientConfig(patch_size=patch, transformer=transformer, n_layer=node["transformer"]["n_layer"])
    model = load_model(folder, cfg)
    assert isinstance(model, EfficientLVSM)
    assert sum(weight.numel() for weight in model.parameters()) == config["n_params"]
    return model


@torch.no_grad()
def check_outputs(folder: Path, config: dict[str, Any]) -> None:
    model = _model(folder, config)
    context, target = load_views(folder, config, "eval")
    assert context.images is not None
    size = (context.images.shape[-2], context.images.shape[-1])
    rays = plucker(target.c2w, target.intrinsics, *size)
    posed = torch.cat([2 * context.images - 1, plucker(context.c2w, context.intrinsics, *size)], dim=2)
    memory = model.encode(context)
    ours = {
        "posed_input_first": posed,
        "target_pose_cond_first": rays,
        "input_image_tokens": model.rgbp_tokenizer(posed.flatten(0, 1)).unflatten(0, posed.shape[:2]),
        "target_pose_tokens": model.target_pose_tokenizer(rays.flatten(0, 1)).unflatten(0, rays.shape[:2]),
        "render": model(context, target).images,
    }
    layers = {
        "input": model.context_layers(context),
        "target": model.target_layers(memory, target.c2w, target.intrinsics, size),
    }
    for name, tokens in layers.items():
        ours |= {f"{name}_tokens_layer_{index}": value for index, value in enumerate(tokens)}
    compare(folder, ours)


def check_train_step(folder: Path, config: dict[str, Any]) -> None:
    verify_training_step(folder, config, _model(folder, config))


def check_evaluation_loss(folder: Path, config: dict[str, Any]) -> None:
    verify_eval_loss(folder, config, _model(folder, config))


@torch.no_grad()
def check_video(folder: Path, config: dict[str, Any]) -> None:
    verify_context_video(folder, config, _model(folder, config))


@torch.no_grad()
def check_added_views(folder: Path, config: dict[str, Any]) -> None:
    """Context views added in groups: renders after every group, keys and values at the end."""
    model = _model(folder, config)
    context, target = load_views(folder, config, "eval")
    recorded = load_file(folder / config["incremental"]["file"])
    full = load_file(folder / "outputs.safetensors")["render"]
    assert context.images is not None and recorded
    size = (context.images.shape[-2], context.images.shape[-1])
    for name, groups in config["incremental"]["groups"].items():
        memory, start = None, 0
        for number, count in enumerate(groups):
            memory = model.encode(context.span(start, start + count), memory)
            start += count
            render = model.decode(memory, target.c2w, target.intrinsics, *size)
            theirs = full if start == context.c2w.shape[1] else recorded[f"{name}_render_{number}"]
            close(f"{name}, after group {number}", render, theirs, atol=5e-6)
        assert memory is not None and start == context.c2w.shape[1]
        for index, (keys, values) in enumerate(zip(memory.keys, memory.values, strict=True)):
            close(f"keys {index}", keys.transpose(1, 2), recorded[f"cache_key_layer_{index}"], atol=CACHE_ATOL)
            close(f"values {index}", values.transpose(1, 2), recorded[f"cache_value_layer_{index}"], atol=CACHE_ATOL)
