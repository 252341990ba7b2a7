"""LVSM once more, written from specs/lvsm.md with plain functions in float64: makes fixture folders of any size.

It shares no code with the package, so the checks of the kinds `lvsm_*` can be tried on shapes that were never recorded.
"""

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from scipy.spatial.transform import Rotation, Slerp
from torch import Tensor
from torch.nn.functional import layer_norm

Weights = dict[str, Tensor]
LR, DECAY, EPS, CLIP = 4e-4, 0.05, 1e-8, 1.0


def make_weights(config: dict[str, Any], generator: torch.Generator) -> Weights:
    """Draw weights of the published names for a fixture's configuration."""
    node, patch = config["config"]["model"], config["config"]["model"]["image_tokenizer"]["patch_size"]
    d = node["transformer"]["d"]
    shapes: dict[str, tuple[int, ...]] = {
        "image_tokenizer.1.weight": (d, 9 * patch**2),
        "target_pose_tokenizer.1.weight": (d, 6 * patch**2),
        "image_token_decoder.0.weight": (d,),
        "image_token_decoder.1.weight": (3 * patch**2, d),
    }
    if "n_layer" in node["transformer"]:
        shapes["transformer_input_layernorm.weight"] = (d,)
        stacks = {"transformer_blocks": node["transformer"]["n_layer"]}
    else:
        shapes["transformer_input_layernorm_decoder.weight"] = (d,)
        shapes["n_light_field_latent"] = (node["transformer"]["n_latent_vectors"], d)
        stacks = {f"transformer_{name}": node["transformer"][f"{name}_n_layer"] for name in ("encoder", "decoder")}
    for stack, count in stacks.items():
        for index in range(count):
            shapes |= {f"{stack}.{index}.{name}": shape for name, shape in _block(node["transformer"]).items()}
    return {name: _drawn(shape, generator) for name, shape in shapes.items()}


def _block(node: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    d = node["d"]
    shapes: dict[str, tuple[int, ...]] = {
        **{"norm1.weight": (d,), "norm2.weight": (d,), "attn.to_qkv.weight": (3 * d, d), "attn.fc.weight": (d, d)},
        **{"mlp.mlp.0.weight": (4 * d, d), "mlp.mlp.2.weight": (d, 4 * d)},
    }
    if node["use_qk_norm"]:
        shapes |= {f"attn.{name}_norm.weight": (node["d_head"],) for name in "qk"}
    return shapes


def _drawn(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    noise = torch.randn(shape, generator=generator)
    return 0.08 * noise if len(shape) > 1 else 1 + 0.1 * noise


def plucker(c2w: Tensor, intrinsics: Tensor, height: int, width: int) -> Tensor:
    """Return [b v 6 h w]: moment, then direction, of the ray through every pixel's centre."""
    ys, xs = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    fx, fy, cx, cy = (intrinsics[..., i, None, None] for i in range(4))
    camera = torch.stack([(xs - cx) / fx, (ys - cy) / fy, torch.ones_like(xs - cx)], dim=2)
    direction = torch.einsum("bvij,bvjhw->bvihw", c2w[..., :3, :3], camera)
    direction = direction / direction.norm(dim=2, keepdim=True)
    origin = c2w[..., :3, 3, None, None].expand_as(direction)
    return torch.cat([torch.cross(origin, direction, dim=2), direction], dim=2)


def patches(maps: Tensor, patch: int) -> Tensor:
    """Return [n t patch*patch*c] of maps [n c h w]."""
    columns = torch.nn.functional.unfold(maps, patch, stride=patch)  # channel slowest
    return columns.unflatten(1, (maps.shape[1], patch**2)).permute(0, 3, 2, 1).flatten(2)


def block(w: Weights, name: str, x: Tensor, d_head: int) -> Tensor:
    """Transform a batch of sequences by one block."""
    d = x.shape[-1]
    y = layer_norm(x, (d,), w[f"{name}.norm1.weight"], eps=1e-5) @ w[f"{name}.attn.to_qkv.weight"].T
    q, k, v = (part.unflatten(-1, (d // d_head, d_head)).transpose(1, 2) for part in y.split(d, dim=-1))
    if f"{name}.attn.q_norm.weight" in w:
        q, k = (
            part / (part.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * w[f"{name}.attn.{letter}_norm.weight"]
            for letter, part in (("q", q), ("k", k))
        )
    mixed = ((q @ k.mT / math.sqrt(d_head)).softmax(-1) @ v).transpose(1, 2).flatten(2)
    x = x + mixed @ w[f"{name}.attn.fc.weight"].T
    y = layer_norm(x, (d,), w[f"{name}.norm2.weight"], eps=1e-5) @ w[f"{name}.mlp.mlp.0.weight"].T
    return x + (0.5 * y * (1 + torch.erf(y / math.sqrt(2)))) @ w[f"{name}.mlp.mlp.2.weight"].T


def stack(w: Weights, name: str, x: Tensor, d_head: int) -> Tensor:
    """Transform a batch of sequences by a whole stack."""
    for index in range(len({key.split(".")[1] for key in w if key.startswith(f"{name}.")})):
        x = block(w, f"{name}.{index}", x, d_head)
    return x


def forward(w: Weights, config: dict[str, Any], views: dict[str, Tensor], target: dict[str, Tensor]) -> Weights:
    """Return every recorded output, by its name in outputs.safetensors."""
    node = config["config"]["model"]
    patch, d, d_head = node["image_tokenizer"]["patch_size"], node["transformer"]["d"], node["transformer"]["d_head"]
    b, v, _, height, width = views["image"].shape
    t = target["c2w"].shape[1]
    posed = torch.cat([2 * views["image"] - 1, plucker(views["c2w"], views["fxfycxcy"], height, width)], dim=2)
    rays = plucker(target["c2w"], target["fxfycxcy"], height, width)
    tokens = (patches(posed.flatten(0, 1), patch) @ w["image_tokenizer.1.weight"].T).unflatten(0, (b, v))
    queries = patches(rays.flatten(0, 1), patch) @ w["target_pose_tokenizer.1.weight"].T
    n, scene = queries.shape[1], tokens.flatten(1, 2)
    out = {"input_image_tokens": tokens, "target_pose_tokens": queries.unflatten(0, (b, t))}
    out |= {"posed_input_first": posed, "target_pose_cond_first": rays}
    if "n_layer" in node["transformer"]:
        x = torch.cat([scene.repeat_interleave(t, 0), queries], dim=1)
        normed = layer_norm(x, (d,), w["transformer_input_layernorm.weight"], eps=1e-5)
        answer = stack(w, "transformer_blocks", normed, d_head)[:, -n:]
        out |= {"blocks_input_after_ln_first": normed, "blocks_output_target_tokens": answer}
    else:
        encoded = torch.cat([w["n_light_field_latent"].expand(b, -1, -1), scene], dim=1)
        out |= {"encoder_input": encoded, "encoder_output": stack(w, "transformer_encoder", encoded, d_head)}
        latents = out["encoder_output"][:, : len(w["n_light_field_latent"])]
        x = torch.cat([queries, latents.repeat_interleave(t, 0)], dim=1)
        normed = layer_norm(x, (d,), w["transformer_input_layernorm_decoder.weight"], eps=1e-5)
        answer = stack(w, "transformer_decoder", normed, d_head)[:, :n]
        out |= {
            "latent_tokens": latents,
            "decoder_input_after_ln_first": normed,
            "decoder_output_target_tokens": answer,
        }
    y = layer_norm(answer, (d,), w["image_token_decoder.0.weight"], eps=1e-5) @ w["image_token_decoder.1.weight"].T
    columns = y.sigmoid().unflatten(-1, (patch**2, 3)).permute(0, 3, 2, 1).flatten(1, 2)
    render = torch.nn.functional.fold(columns, (height, width), patch, stride=patch)
    return out | {"render": render.unflatten(0, (b, t))}


def write_fixture(folder: Path, config: dict[str, Any]) -> None:
    """Write a fixture folder as specs/uplvsm.md section 15 describes them, computed here."""
    generator = torch.Generator().manual_seed(config["seed"])
    weights, inputs = make_weights(config, generator), make_inputs(config, generator)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(weights, folder / "weights.safetensors")
    save_file(inputs, folder / "inputs.safetensors")
    wide = {name: value.double() for name, value in weights.items()}
    context, target, _ = _views(config, inputs, "eval")
    outputs = forward(wide, config, context, target)
    save_file({name: _kept(name, value) for name, value in outputs.items()}, folder / "outputs.safetensors")
    (folder / "train_step.json").write_text(json.dumps(train_step(config, weights, inputs)))
    if config["video"]:
        frames = forward(wide, config, {name: value[:1] for name, value in context.items()}, _path(config, context))
        save_file({"video_first": frames["render"].float()}, folder / "video.safetensors")


def make_inputs(config: dict[str, Any], generator: torch.Generator) -> Weights:
    """Draw images, cameras and target positions."""
    b, v, height, width = (config[name] for name in ("batch", "views", "height", "width"))
    seed = int(torch.randint(2**31, (), generator=generator))
    c2w = torch.eye(4).repeat(b, v, 1, 1)
    turned = 0.3 * np.random.default_rng(seed).normal(size=(b * v, 3))
    c2w[..., :3, :3] = torch.from_numpy(Rotation.from_rotvec(turned).as_matrix()).view(b, v, 3, 3).float()
    c2w[..., :3, 3] = 0.5 * torch.randn(b, v, 3, generator=generator)
    lens = torch.tensor([1.1 * width, 1.2 * width, 0.5 * width, 0.5 * height])
    choice = torch.stack([torch.randperm(v, generator=generator) for _ in range(b)])
    targets = config["config"]["training"]["num_target_views"]
    return {
        "image": torch.rand(b, v, 3, height, width, generator=generator),
        "c2w": c2w,
        "fxfycxcy": lens * (1 + 0.1 * torch.rand(b, v, 4, generator=generator)),
        "target_index_eval": torch.arange(v - targets, v).repeat(b, 1),
        "target_index_train": choice[:, :targets].contiguous(),
    }


def _views(config: dict[str, Any], inputs: Weights, which: str) -> tuple[Weights, Weights, Tensor]:
    count, rows = config["config"]["training"]["num_input_views"], torch.arange(config["batch"])[:, None]
    every = {name: inputs[name].double() for name in ("image", "c2w", "fxfycxcy")}
    target = {name: value[rows, inputs[f"target_index_{which}"]] for name, value in every.items()}
    return {name: value[:, :count] for name, value in every.items()}, target, target["image"]


def _kept(name: str, value: Tensor) -> Tensor:
    short = value[:1, :1] if name in ("posed_input_first", "target_pose_cond_first") else value
    return (short[:1] if name.endswith("_first") else short).float().contiguous()


def train_step(config: dict[str, Any], weights: Weights, inputs: Weights) -> dict[str, Any]:
    """Return losses, gradient norms and the change of every weight in the first AdamW step."""
    w = {name: value.double().requires_grad_() for name, value in weights.items()}
    losses = {}
    for which in ("eval", "train"):
        context, target, truth = _views(config, inputs, which)
        losses[which] = (forward(w, config, context, target)["render"] - truth).pow(2).mean()
    losses["train"].backward()
    gradients = {name: value.grad for name, value in w.items() if value.grad is not None}
    total = torch.stack([value.norm() for value in gradients.values()]).norm()
    scale = min(1.0, CLIP / (total.item() + 1e-6))
    change = {}
    for name, gradient in gradients.items():
        g, decay = gradient * scale, 0.0 if w[name].dim() == 1 else DECAY
        change[name] = LR * (decay * w[name].detach() + g / (g.abs() + EPS))
    psnr = {which: -10 * math.log10(loss.item()) for which, loss in losses.items()}
    return {
        **{"loss": losses["train"].item(), "l2_loss": losses["train"].item(), "psnr": psnr["train"]},
        "grad_norm": {name: value.norm().item() for name, value in gradients.items()},
        "total_grad_norm": total.item(),
        "optimizer": {"type": "AdamW", "lr": LR, "betas": [0.9, 0.95], "eps": EPS, "weight_decay": DECAY, "clip": CLIP},
        "no_decay": [name for name, value in w.items() if value.dim() == 1],
        "update_norm": {name: value.norm().item() for name, value in change.items()},
        "eval_loss": {"loss": losses["eval"].item(), "psnr": psnr["eval"]},
    }


def _path(config: dict[str, Any], context: Weights) -> Weights:
    """Return the cameras of the first scene's video: linear centres and lenses, spherical rotations."""
    c2w, lenses, video = context["c2w"][0], context["fxfycxcy"][0], config["video"]
    stops = _nearest_next(c2w[:, :3, 3]) if video["order_poses"] else list(range(len(c2w)))
    stops += [stops[0]] if video["loop_video"] else []
    poses, kinds = [], []
    for start, end in pairwise(stops):
        turn = Slerp([0, 1], Rotation.from_matrix(c2w[[start, end], :3, :3].numpy()))
        for weight in np.linspace(0, 1, video["num_frames"]):
            pose = torch.lerp(c2w[start], c2w[end], float(weight))
            pose[:3, :3] = torch.from_numpy(turn(weight).as_matrix())
            poses.append(pose)
            kinds.append(torch.lerp(lenses[start], lenses[end], float(weight)))
    return {"c2w": torch.stack(poses)[None], "fxfycxcy": torch.stack(kinds)[None]}


def _nearest_next(centres: Tensor) -> list[int]:
    order = [0]
    while len(order) < len(centres):
        left = sorted(set(range(len(centres))) - set(order))
        order.append(min(left, key=lambda view: float((centres[view] - centres[order[-1]]).norm())))
    return order
