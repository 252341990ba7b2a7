"""LVSM encoder-decoder against the reference: values, losses, gradients, one update, video."""

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

from novelview.config.models import LVSMEncoderDecoderConfig
from novelview.models.layers import run_blocks
from novelview.models.lvsm import LVSMEncoderDecoder


def _model(folder: Path, config: dict[str, Any]) -> LVSMEncoderDecoder:
    node = config["config"]["model"]["transformer"]
    sizes = {name: node[name] for name in ("encoder_n_layer", "decoder_n_layer", "n_latent_vectors")}
    model = load_model(folder, LVSMEncoderDecoderConfig(**lvsm_options(config), **sizes))
    assert isinstance(model, LVSMEncoderDecoder)
    return model


@torch.no_grad()
def check_outputs(folder: Path, config: dict[str, Any]) -> None:
    model = _model(folder, config)
    context, target = load_views(folder, config, "eval")
    values, queries = lvsm_tokens(model, context, target)
    encoder_input, latents = model.encoder_input(context), model.encode(context)
    repeated = latents.repeat_interleave(target.c2w.shape[1], dim=0)
    normed = model.transformer_input_layernorm_decoder(torch.cat([queries, repeated], dim=1))
    ours = {
        "decoder_input_after_ln_first": normed,
        "decoder_output_target_tokens": run_blocks(model.transformer_decoder, normed, False)[:, : queries.shape[1]],
        "encoder_input": encoder_input,
        "encoder_output": run_blocks(model.transformer_encoder, encoder_input, False),
        "latent_tokens": latents,
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
