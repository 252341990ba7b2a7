"""What the checks of UP-LVSM, PT-LVSM and LVSM fixtures share: the model, the views, the training step, comparisons."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from novelview.cameras.camera import plucker
from novelview.cameras.paths import interpolate
from novelview.config.models import DinoConfig, ModelConfig, TransformerConfig
from novelview.config.schema import LossConfig, TrainConfig
from novelview.losses.photometric import PhotometricLoss
from novelview.models.lvsm import LVSM
from novelview.models.published import load_published
from novelview.models.registry import build
from novelview.models.render import ViewModel
from novelview.scenes.batch import Views
from novelview.training.optim import adamw, is_decayed

RENDER_ATOL = 5e-6
VALUE_ATOL, VALUE_RTOL = 2e-5, 2e-6  # of intermediate tokens, whose entries are of order 1
GRADIENT_RTOL = 2e-5


def transformer_config(config: dict[str, Any], qk_norm_eps: float = 1e-3) -> TransformerConfig:
    node = config["config"]["model"]["transformer"]
    return TransformerConfig(
        d=node["d"],
        d_head=node["d_head"],
        qk_norm=node.get("use_qk_norm", False),
        qk_norm_eps=qk_norm_eps,
        special_init=node.get("special_init", False),
        depth_init=node.get("depth_init", False),
    )


def lvsm_options(config: dict[str, Any]) -> dict[str, Any]:
    """Return what the nodes of both LVSM variants have in common; RMSNorm's eps is LVSM's 1e-5."""
    node = config["config"]["model"]
    tokenizers = (node["image_tokenizer"], node["target_pose_tokenizer"])
    assert [tokenizer["in_channels"] for tokenizer in tokenizers] == [9, 6]
    (patch,) = {tokenizer["patch_size"] for tokenizer in tokenizers}
    return {"patch_size": patch, "transformer": transformer_config(config, qk_norm_eps=1e-5)}


def lvsm_tokens(model: LVSM, context: Views, target: Views) -> tuple[dict[str, Tensor], Tensor]:
    """Return what both LVSM variants embed, by recorded name, and the cameras' tokens [b*v n d]."""
    assert context.images is not None
    size = context.images.shape[-2:]
    rays = plucker(target.c2w, target.intrinsics, *size)
    queries = model.target_pose_tokenizer(rays.flatten(0, 1))
    views, patches = context.c2w.shape[1], queries.shape[1]
    values = {
        "input_image_tokens": model.context_tokens(context).unflatten(1, (views, patches)),
        "posed_input_first": model.posed_images(context),
        "target_pose_cond_first": rays,
        "target_pose_tokens": queries.unflatten(0, rays.shape[:2]),
    }
    return values, queries


def dino_config(config: dict[str, Any]) -> DinoConfig:
    node = config["dino"]
    names = ("img_size", "embed_dim", "depth", "num_heads", "patch_size", "num_register_tokens", "init_values")
    offset = node.get("interpolate_offset", 0.0)
    assert offset == 0.0, f"interpolate_offset {offset} is not the published setting"
    chosen = {name: node[name] for name in names if name in node}
    return DinoConfig(
        **chosen,
        qk_norm=node.get("qk_norm", config["config"].get("unposed", {}).get("dino_qknorm", False)),
        mlp_ratio=node.get("mlp_ratio", 4),
        interpolate_antialias=node.get("interpolate_antialias", True),
    )


def load_model(folder: Path, cfg: ModelConfig) -> ViewModel:
    model = build(cfg)
    load_published(folder / "weights.safetensors", model)
    return model.eval()


def load_views(folder: Path, config: dict[str, Any], which: str) -> tuple[Views, Views]:
    """Return context and target views; `which` names the recorded target choice, eval or train."""
    inputs = load_file(folder / "inputs.safetensors")
    views = Views(inputs["image"], inputs["c2w"], inputs["fxfycxcy"])
    count = config["config"]["training"]["num_input_views"]
    return views.span(0, count), views.take(inputs[f"target_index_{which}"])


def close(name: str, ours: Tensor, theirs: Tensor, atol: float, rtol: float = 0.0) -> None:
    assert ours.shape == theirs.shape, f"{name}: {tuple(ours.shape)} instead of {tuple(theirs.shape)}"
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=rtol, msg=lambda text: f"{name}: {text}")


def relative(ours: Tensor, theirs: Tensor) -> float:
    """Return the relative L2 distance; of a zero tensor the absolute one."""
    assert ours.shape == theirs.shape, f"{tuple(ours.shape)} instead of {tuple(theirs.shape)}"
    theirs = theirs.double()
    return ((ours.detach().double() - theirs).norm() / (theirs.norm() or 1.0)).item()


def compare(folder: Path, ours: dict[str, Tensor]) -> None:
    """Compare every recorded output; names ending in `_first` hold the first scene and view only."""
    recorded = load_file(folder / "outputs.safetensors")
    assert "render" in recorded, f"{folder}: outputs.safetensors records no render"
    assert set(recorded) <= set(ours), f"outputs without a counterpart: {sorted(set(recorded) - set(ours))}"
    for name, theirs in recorded.items():
        value = ours[name]
        for dim in range(2) if name.endswith("_first") else ():
            if value.shape[dim : dim + 1] != theirs.shape[dim : dim + 1]:
                value = value.narrow(dim, 0, theirs.shape[dim])
        atol, rtol = (RENDER_ATOL, 0.0) if name == "render" else (VALUE_ATOL, VALUE_RTOL)
        close(name, value, theirs, atol, rtol)


def verify_training_step(folder: Path, config: dict[str, Any], model: ViewModel) -> None:
    """Loss, gradient norms before clipping, decay groups and the change of every parameter in one AdamW step."""
    record = json.loads((folder / "train_step.json").read_text())
    context, target = load_views(folder, config, "train")
    losses = _loss(config, model.train(), context, target)
    for name in ("loss", "psnr"):
        close(name, losses[name].detach(), torch.tensor(record[name]), atol=1e-6, rtol=2e-6)
    close("l2_loss", losses["mse"].detach(), torch.tensor(record["l2_loss"]), atol=1e-7, rtol=2e-6)
    losses["loss"].backward()
    _compare_gradients(record, model)
    _compare_update(record, model)


def _loss(config: dict[str, Any], model: ViewModel, context: Views, target: Views) -> dict[str, Tensor]:
    training = config["config"]["training"]
    weights = (training[f"{name}_loss_weight"] for name in ("l2", "perceptual", "lpips"))
    loss = PhotometricLoss(LossConfig(*weights))
    assert target.images is not None
    return loss(model(context, target).images, target.images)


def verify_eval_loss(folder: Path, config: dict[str, Any], model: ViewModel) -> None:
    record = json.loads((folder / "train_step.json").read_text())["eval_loss"]
    losses = _loss(config, model, *load_views(folder, config, "eval"))
    names = {"loss": "loss", "l2_loss": "mse", "psnr": "psnr"}
    compared = {theirs: losses[ours] for theirs, ours in names.items() if theirs in record}
    assert "loss" in compared
    for name, value in compared.items():
        close(name, value.detach(), torch.tensor(record[name]), atol=1e-6, rtol=2e-6)


def _compare_gradients(record: dict[str, Any], model: ViewModel) -> None:
    zero = torch.zeros(())
    norms = {name: zero if value.grad is None else value.grad.norm() for name, value in model.named_parameters()}
    recorded = own_names(model, record["grad_norm"])
    assert set(recorded) == set(norms)
    for name, theirs in recorded.items():
        close(f"gradient of {name}", norms[name], torch.tensor(theirs or 0.0), atol=1e-9, rtol=GRADIENT_RTOL)
    total = torch.stack(list(norms.values())).norm()
    close("total gradient norm", total, torch.tensor(record["total_grad_norm"]), atol=0, rtol=GRADIENT_RTOL)
    free = {name for name, parameter in model.named_parameters() if not is_decayed(parameter)}
    assert free == set(own_names(model, dict.fromkeys(record["no_decay"])))


def own_names(model: ViewModel, recorded: dict[str, Any]) -> dict[str, Any]:
    """Rename recorded parameters: a tied one may be recorded under either of its names."""
    first = {parameter: name for name, parameter in model.named_parameters()}
    every = dict(model.named_parameters(remove_duplicate=False))
    return {first[every[name]]: value for name, value in recorded.items()}


def _compare_update(record: dict[str, Any], model: ViewModel) -> None:
    node = record["optimizer"]
    assert node["type"] == "AdamW"
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    beta1, beta2 = node["betas"]
    cfg = TrainConfig(beta1=beta1, beta2=beta2, eps=node["eps"], weight_decay=node["weight_decay"])
    optimizer = adamw(model, cfg)
    for group in optimizer.param_groups:
        group["lr"] = node["lr"]
    if node.get("clip"):
        torch.nn.utils.clip_grad_norm_(model.parameters(), node["clip"])
    optimizer.step()
    recorded = own_names(model, record["update_norm"])
    for name, value in model.named_parameters():
        change = (value.detach() - before[name]).norm()
        close(f"update of {name}", change, torch.tensor(recorded[name]), atol=1e-7, rtol=2e-4)


def video_steps(settings: dict[str, Any]) -> tuple[int, bool, bool]:
    """Return frames a leg, whether the path is closed, whether its stops are reordered."""
    return settings["num_frames"], settings.get("loop_video", False), settings.get("order_poses", False)


def verify_video(
    folder: Path, config: dict[str, Any], model: ViewModel, context: Views, c2w: Tensor, intrinsics: Tensor
) -> None:
    """Frames on the path through the cameras c2w [v 4 4], intrinsics [v 4] of the first scene."""
    poses, lenses = interpolate(c2w, intrinsics, *video_steps(config["video"]))
    first = context.take(torch.arange(context.c2w.shape[1])[None])
    ours = model.render_path(first, poses[None], lenses[None])
    close("video", ours, load_file(folder / "video.safetensors")["video_first"], atol=2e-5)


def verify_context_video(folder: Path, config: dict[str, Any], model: ViewModel) -> None:
    """Frames between the input cameras of the first scene, where the fixture has any."""
    if not config.get("video"):
        assert not (folder / "video.safetensors").exists()
        return
    context, _ = load_views(folder, config, "eval")
    verify_video(folder, config, model, context, context.c2w[0], context.intrinsics[0])
