"""VGGT against the reference: tokens, encodings, dense maps, decoded cameras, unprojected points."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from novelview.config.models import DinoConfig
from novelview.config.sources import CameraHeadConfig, DptConfig, VGGTConfig
from novelview.models.published import load_published
from novelview.models.vggt.estimator import decode_poses, encode_poses, unproject
from novelview.models.vggt.model import VGGT

TOKEN_ATOL, OUTPUT_ATOL, RTOL = 2e-5, 5e-6, 1e-5
OUTPUTS = ("pose_enc", "depth", "depth_conf", "world_points", "world_points_conf")
KNOWN = {*OUTPUTS, "images", "pose_enc_iter0", "extrinsic_w2c", "intrinsic_px", "unprojected", "tokens_first"}
KNOWN |= {"tokens_last", "pose_enc_roundtrip"}


def close(name: str, ours: Tensor, theirs: Tensor, atol: float = OUTPUT_ATOL) -> None:
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=RTOL, msg=lambda text: f"{name}: {text}")


def model_config(config: dict[str, Any]) -> VGGTConfig:
    vit, width = config["patch_vit"], config["embed_dim"]
    names = ("img_size", "depth", "num_heads", "num_register_tokens", "interpolate_antialias")
    assert vit.get("interpolate_offset", 0.0) == 0.0
    return VGGTConfig(
        embed_dim=width,
        depth=config["agg_depth"],
        num_heads=config["num_heads"],
        num_register_tokens=config["patch_start_idx"] - 1,
        patch_vit=DinoConfig(embed_dim=width, qk_norm=False, **{name: vit[name] for name in names if name in vit}),
        camera_head=CameraHeadConfig(**config["camera_head"]),
        dpt=DptConfig(**config["dpt"]),
    )


def load(folder: Path, config: dict[str, Any]) -> VGGT:
    model = VGGT(model_config(config))
    load_published(folder / "weights.safetensors", model)
    return model.float().eval()


@torch.no_grad()
def check_outputs(folder: Path, config: dict[str, Any]) -> None:
    """Values do not depend on how many frames pass the heads at a time."""
    recorded, model = load_file(folder / "tensors.safetensors"), load(folder, config)
    assert set(OUTPUTS) <= set(recorded) <= KNOWN, sorted(recorded)
    for chunk in (1, 8):
        for name, value in model(recorded["images"], chunk).items():
            close(f"{name}, {chunk} frames at a time", value, recorded[name])


@torch.no_grad()
def check_tokens(folder: Path, config: dict[str, Any]) -> None:
    recorded, model = load_file(folder / "tensors.safetensors"), load(folder, config)
    ends = {0, config["agg_depth"] - 1}
    layers = model.aggregator(recorded["images"], ends, 8)
    close("first layer", layers[0], recorded["tokens_first"], TOKEN_ATOL)
    close("last layer", layers[max(ends)], recorded["tokens_last"], TOKEN_ATOL)
    rounds = model.camera_head(layers[max(ends)][:, :, 0])
    assert len(rounds) == config["camera_head"]["num_iterations"]
    close("encoding after the first round", rounds[0], recorded["pose_enc_iter0"])
    close("encoding after the last round", rounds[-1], recorded["pose_enc"])


def check_cameras(folder: Path, config: dict[str, Any]) -> None:
    recorded = load_file(folder / "tensors.safetensors")
    size = (config["H"], config["W"])
    w2c, intrinsics = decode_poses(recorded["pose_enc"], size)
    close("w2c", w2c[..., :3, :], recorded["extrinsic_w2c"])
    theirs = recorded["intrinsic_px"]
    rows = torch.stack([theirs[..., i, j] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2))], dim=-1)
    close("intrinsics", intrinsics, rows, atol=1e-4)
    close("encoding again", encode_poses(w2c, intrinsics, size), recorded["pose_enc_roundtrip"])


def check_unprojection(folder: Path, config: dict[str, Any]) -> None:
    recorded = load_file(folder / "tensors.safetensors")
    w2c, intrinsics = decode_poses(recorded["pose_enc"][0], (config["H"], config["W"]))
    points = unproject(recorded["depth"][0, ..., 0].double(), w2c, intrinsics)
    close("points", points, recorded["unprojected"].double())


def check_parameters(folder: Path, config: dict[str, Any]) -> None:
    with torch.device("meta"):
        model = VGGT(model_config(config))
    weights = load_file(folder / "weights.safetensors")
    counts = json.loads((folder / "config.json").read_text())["num_params"]
    assert sum(value.numel() for value in model.parameters()) == counts
    assert set(model.state_dict()) == set(weights)
