"""A checkpoint in the published layout, made from the recorded reference weights of a parity fixture."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

GOLDENS = Path(__file__).parents[1] / "goldens"


def fixture(kind: str) -> dict[str, Any]:
    """Return the description of a parity fixture."""
    return json.loads((GOLDENS / kind / "config.json").read_text())


def overrides(kind: str, image_size: int) -> list[str]:
    """Return the overrides under which stages `adopt` and `train` have the fixture's model (uplvsm or ptlvsm)."""
    config = fixture(kind)
    transformer, dino = config["config"]["model"]["transformer"], config["dino"]
    layers = [name for name in transformer if name.endswith("n_layer") or name == "n_latent_vectors"]
    return [
        *(f"model={kind}", "scale=paper", f"views.image_size={image_size}"),
        *(f"model.transformer.{name}={transformer[name]}" for name in ("d", "d_head")),
        *(f"model.{name}={transformer[name]}" for name in layers),
        *(f"model.dino.{name}={dino[name]}" for name in ("img_size", "embed_dim", "depth", "num_heads")),
        "model.dino.weights=null",
    ]


def write_checkpoint(path: Path, kind: str, prefix: str = "module.", nest: str = "model") -> dict[str, Tensor]:
    """Write a training state as the reference does, wrapper prefix, frozen loss and optimizer included; return weights.

    The frozen networks' keys follow specs/uplvsm.md section 12."""
    weights = load_file(GOLDENS / kind / "weights.safetensors")
    vgg = "loss_computer.perceptual_loss_module."
    frozen = {f"{vgg}{name}": torch.randn(4, 4) for name in ("vgg.features.0.weight", "blocks.0.0.weight")}
    state = {f"{prefix}{key}": value for key, value in {**weights, **frozen}.items()}
    moments = {0: {"step": torch.tensor(7.0), "exp_avg": torch.zeros(3), "exp_avg_sq": torch.zeros(3)}}
    optimizer = {"state": moments, "param_groups": [{"lr": 4e-4, "betas": (0.9, 0.95), "params": [0]}]}
    counters = {"lr_scheduler": {"last_epoch": 7}, "fwdbwd_pass_step": 7, "param_update_step": 7}
    torch.save({nest: state, "optimizer": optimizer, **counters}, path)
    return weights
