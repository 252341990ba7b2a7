"""What the checks of DepthSplat fixtures share: the configuration a fixture was made with, comparisons, gradients."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from novelview.config.models import DepthSplatConfig, DinoConfig, DptConfig, GaussianConfig
from novelview.models.depthsplat.depth import Cameras
from novelview.models.depthsplat.gaussians import DepthSplatEncoder, Encoded

RTOL, ATOL = 1e-4, 1e-5  # of values, relative to the largest entry of a tensor and absolute
GRADIENT_RTOL = 1e-3
GRADIENT_NOISE = 1e-7  # of the whole gradient: what is left of terms that cancel, as before a normalisation
LAYERS = {12: [2, 5, 8, 11], 24: [4, 11, 17, 23]}


def near(name: str, ours: Tensor, theirs: Tensor, rtol: float = RTOL, atol: float = ATOL) -> None:
    """Fail unless every entry is within atol + rtol * the largest one."""
    assert ours.shape == theirs.shape, f"{name}: {tuple(ours.shape)} instead of {tuple(theirs.shape)}"
    worst = (ours.detach().double() - theirs.double()).abs().max().item()
    allowed = atol + rtol * theirs.abs().max().item()
    assert worst <= allowed, f"{name}: off by {worst:.3g}, allowed {allowed:.3g}"


def tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "tensors.safetensors")


def weights(folder: Path) -> dict[str, Tensor]:
    """Return the recorded weights, stored in bfloat16, as float32."""
    return {key: value.float() for key, value in load_file(folder / "weights.safetensors").items()}


def loaded(folder: Path, module: nn.Module, config: dict[str, Any]) -> nn.Module:
    """Load every recorded weight under its published name, as many as the fixture says."""
    module.load_state_dict(weights(folder))
    assert sum(value.numel() for value in module.parameters()) == config["num_params"]
    return module


def verify_cotangent(output: Tensor, recorded: Mapping[str, Tensor], inputs: Tensor, name: str) -> None:
    """Compare the gradient of sum(output * cotangent) with respect to the inputs."""
    (gradient,) = torch.autograd.grad((output * recorded["cotangent"]).sum(), inputs)
    near(name, gradient.view_as(recorded[name]), recorded[name], rtol=GRADIENT_RTOL)


def encoder_config(folder: Path, config: dict[str, Any]) -> DepthSplatConfig:
    """Return the node of a fixture of the whole encoder: options from its config.json, widths from its weights."""
    shapes = {key.removeprefix("depth_predictor."): value.shape for key, value in weights(folder).items()}
    told = config["encoder_cfg"]
    pm = config["fixture"] == "depthsplat_pm_encoder"
    same = ("num_scales", "upsample_factor", "lowest_feature_resolution", "depth_unet_channels", "local_mv_match")
    return DepthSplatConfig(
        **{name: told[name] for name in same if name in told},
        patch_size=4 * told["lowest_feature_resolution"],
        near=config["near"],
        far=config["far"],
        num_depth_candidates=shapes["depth_head.0.2.weight"][0],
        cnn_channels=[shapes[f"backbone.layer{layer}.0.conv1.weight"][0] for layer in (1, 2, 3)],
        feature_channels=shapes["backbone.conv2.weight"][0],
        transformer_layers=_count(shapes, "transformer.layers"),
        transformer_nearest_views=told.get("multiview_trans_nearest_n_views"),
        cost_volume_nearest_views=told.get("costvolume_nearest_n_views"),
        unet_head_channels=_substituted(config, r"num_head_channels \d+->(\d+)", 32),
        supervise_all_scales=pm,
        train_depth_only=told.get("train_depth_only", False),
        dino=_dino(config, shapes),
        dino_layers=LAYERS[_count(shapes, "pretrained.blocks")],
        dpt=_dpt(shapes),
        gaussian=_gaussian(config, pm),
    )


def _count(shapes: Mapping[str, torch.Size], prefix: str) -> int:
    return len({key.removeprefix(f"{prefix}.").split(".")[0] for key in shapes if key.startswith(f"{prefix}.")})


def _substituted(config: dict[str, Any], pattern: str, published: int) -> int:
    """Return a size that leaves no trace in weights, which the fixture tells in words; published if it does not."""
    found = re.search(pattern, config.get("patched", ""))
    return int(found[1]) if found else published


def _dino(config: dict[str, Any], shapes: Mapping[str, torch.Size]) -> DinoConfig:
    width, _, _, patch = shapes["pretrained.patch_embed.proj.weight"]
    return DinoConfig(
        img_size=patch * math.isqrt(shapes["pretrained.pos_embed"][1] - 1),
        patch_size=patch,
        embed_dim=width,
        depth=_count(shapes, "pretrained.blocks"),
        num_heads=_substituted(config, r"(\d+) heads", width // 64),
        mlp_ratio=shapes["pretrained.blocks.0.mlp.fc1.weight"][0] / width,
        num_register_tokens=0,
        qk_norm=False,
        interpolate_antialias=False,
        interpolate_offset=0.1,
    )


def _dpt(shapes: Mapping[str, torch.Size]) -> DptConfig:
    features = shapes.get("feature_upsampler.scratch.refinenet1.out_conv.weight", (0,))[0]
    widths = [shapes[f"upsampler.projects.{number}.weight"][0] for number in range(4)]
    return DptConfig(widths, shapes["upsampler.scratch.refinenet1.out_conv.weight"][0], features)


def _gaussian(config: dict[str, Any], pm: bool) -> GaussianConfig:
    told, adapter = config["encoder_cfg"], config["gaussian_adapter"]
    cfg = GaussianConfig(
        sh_degree=adapter["sh_degree"],
        scale_min=adapter["gaussian_scale_min"],
        scale_max=adapter["gaussian_scale_max"],
        regressor_channels=told["gaussian_regressor_channels"],
        upsampler_channels=told["feature_upsampler_channels"],
    )
    if not pm:
        return cfg
    assert told.get("opacity_mapping") is None, "no opacity mapping here"
    cfg.scale_activation, cfg.unit_rays, cfg.upsampler, cfg.regressor = "exp", True, "resize_conv", "unet"
    cfg.offset_mode = str(told["offset_mode"]).replace("origin", "ori")
    cfg.offset_factor = told.get("offset_factor", 0.5)
    cfg.confidence_activation = told.get("confidence_activation") or "none"
    cfg.large_unet = told.get("color_large_unet", False) or cfg.regressor_channels == 16
    return cfg


def encode(folder: Path, config: dict[str, Any], images: Tensor) -> tuple[DepthSplatEncoder, Encoded]:
    """Run the fixture's encoder, in training where it was."""
    encoder = DepthSplatEncoder(encoder_config(folder, config))
    loaded(folder, encoder, config)
    given = tensors(folder)
    for name in ("near", "far"):
        near(name, torch.full_like(given[name], getattr(encoder.cfg, name)), given[name], rtol=1e-6, atol=0)
    cameras = Cameras(given["extrinsics_c2w"], given["intrinsics_norm"])
    return encoder, encoder.train(config["train_mode"])(images, cameras)


def recorded_values(found: Encoded) -> dict[str, Tensor]:
    """Return our values under the recorded names."""
    maps = found.depth.features
    lists = {
        "features_cnn_all_scales": maps.cnn,
        "features_mv": maps.mv,
        "features_mono": maps.mono,
        "features_mono_intermediate": maps.layers,
        "match_probs": found.depth.match_probs,
        "depth_preds": found.depth.depths,
    }
    ours = {f"{name}.{number}": value for name, values in lists.items() for number, value in enumerate(values)}
    ours["depths"] = torch.cat(found.depth.depths)
    for name in ("means", "covariances", "harmonics", "opacities") if found.gaussians else ():
        ours[f"gaussians.{name}"] = torch.cat([getattr(one, name) for one in found.gaussians])
    if found.confidence is not None:
        ours["gaussians.confidences"] = found.confidence.repeat(len(found.gaussians), 1)
    return ours


def recorded_loss(ours: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> Tensor:
    """Return the loss the fixture's gradients are of."""
    loss = (ours["depths"] * given["cot_depths"]).mean()
    if "gaussians.means" in ours:
        loss = loss + (ours["gaussians.means"] * given["cot_means"]).mean()
        loss = loss + (ours["gaussians.opacities"] * given["cot_opacities"]).mean()
        loss = loss + ours["gaussians.covariances"].mean() + ours["gaussians.harmonics"].mean()
    return loss


def verify_values(folder: Path, config: dict[str, Any]) -> None:
    """Every recorded feature map, probability, depth and Gaussian."""
    given = tensors(folder)
    with torch.no_grad():
        _, found = encode(folder, config, given["image"])
    ours = recorded_values(found)
    inputs = {"image", "extrinsics_c2w", "intrinsics_norm", "near", "far"}
    outputs = {name for name in given if name not in inputs and not name.startswith(("cot_", "grad_"))}
    assert {"depths", "depth_preds.0"} <= outputs <= set(ours), sorted(outputs - set(ours))
    for name in sorted(outputs):
        near(name, ours[name], given[name])


def verify_gradients(folder: Path, config: dict[str, Any]) -> None:
    """The loss, the norm of every parameter's gradient, and the recorded gradients entry by entry."""
    given = tensors(folder)
    if not config["grad_norms"]:
        assert config["loss_value"] is None
        return
    images = given["image"].clone().requires_grad_()
    encoder, found = encode(folder, config, images)
    loss = recorded_loss(recorded_values(found), given)
    assert math.isclose(loss.item(), config["loss_value"], rel_tol=RTOL, abs_tol=ATOL), loss.item()
    loss.backward()
    gradients = {name: value.grad for name, value in encoder.named_parameters()}
    _compare_norms(gradients, config["grad_norms"])
    for name, theirs in given.items():
        if name.startswith("grad_param."):
            gradient = gradients[name.removeprefix("grad_param.")]
            assert gradient is not None, name
            near(name, gradient, theirs, rtol=GRADIENT_RTOL, atol=1e-6)
    assert images.grad is not None
    near("grad_image", images.grad, given["grad_image"], rtol=GRADIENT_RTOL, atol=1e-6)


def _compare_norms(gradients: Mapping[str, Tensor | None], recorded: Mapping[str, float | None]) -> None:
    assert set(gradients) == set(recorded)
    noise = GRADIENT_NOISE * math.hypot(*(value or 0.0 for value in recorded.values()))
    for name, theirs in recorded.items():
        gradient = gradients[name]
        norm = 0.0 if gradient is None else gradient.norm().item()
        off = abs(norm - (theirs or 0.0))
        assert off <= noise + GRADIENT_RTOL * (theirs or 0.0), f"gradient of {name}: {norm} instead of {theirs}"
