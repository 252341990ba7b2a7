"""Small functions against the reference: cameras, resizing, schedules, samplers, metrics, normalisation."""

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from novelview.cameras.camera import plucker, rays, resize_crop_plan
from novelview.cameras.paths import interpolate
from novelview.cameras.poses import c2w_to_encoding, canonicalise, encoding_to_c2w, mean_frame
from novelview.config.schema import ViewsConfig
from novelview.evaluation.metrics import psnr, ssim
from novelview.losses.photometric import PerceptualLoss, shapes
from novelview.models.dinov2 import resize_pos_embed
from novelview.models.layers import RMSNorm
from novelview.scenes.samplers import select_views
from novelview.training.optim import learning_rate

KNOWN = {"canonical_camera", "dino_pos_embed", "interpolate_poses", "lr_schedule", "metrics", "perceptual", "plucker"}
KNOWN |= {"pose_encoding", "preprocess_poses", "resize_crop", "rmsnorm", "view_selector", "config"}


def close(name: str, ours: Tensor, theirs: Tensor, atol: float, rtol: float = 0.0) -> None:
    torch.testing.assert_close(ours, theirs, atol=atol, rtol=rtol, msg=lambda text: f"{name}: {text}")


def check_every_file_is_known(folder: Path, config: dict[str, Any]) -> None:
    assert {path.stem for path in folder.iterdir()} <= KNOWN


def check_plucker(folder: Path, config: dict[str, Any]) -> None:
    fixture = load_file(folder / "plucker.safetensors")
    size = fixture["plucker"].shape[-2:]
    origin, direction = rays(fixture["c2w"], fixture["fxfycxcy"], *size)
    close("origin", origin, fixture["ray_o"], atol=1e-6)
    close("direction", direction, fixture["ray_d"], atol=1e-6)
    close("plucker", plucker(fixture["c2w"], fixture["fxfycxcy"], *size), fixture["plucker"], atol=2e-6)


def check_pose_encoding(folder: Path, config: dict[str, Any]) -> None:
    fixture = load_file(folder / "pose_encoding.safetensors")
    c2w, unnormalised = fixture["c2w"], fixture["pose_enc_unnormalised"]
    close("encoding", c2w_to_encoding(c2w), fixture["pose_enc_from_c2w"], atol=2e-6)
    close("decoded", encoding_to_c2w(fixture["pose_enc_from_c2w"]), c2w, atol=2e-6)
    close("decoded, any length", encoding_to_c2w(unnormalised), c2w, atol=2e-6)


def check_preprocess_poses(folder: Path, config: dict[str, Any]) -> None:
    fixture = load_file(folder / "preprocess_poses.safetensors")
    scales = [name for name in fixture if name.startswith("out_")]
    assert scales
    for name in scales:
        ours = mean_frame(fixture["in_c2w"], float(name.removeprefix("out_"))).transform(fixture["in_c2w"])
        close(name, ours, fixture[name], atol=2e-6)


def check_canonical_camera(folder: Path, config: dict[str, Any]) -> None:
    fixture = load_file(folder / "canonical_camera.safetensors")
    ours = canonicalise(fixture["c2w"])
    rows = torch.arange(len(ours))[:, None]
    close("inputs", ours[:, : fixture["input_c2w"].shape[1]], fixture["input_c2w"], atol=5e-6)
    close("targets", ours[rows, fixture["target_index"]], fixture["target_c2w"], atol=5e-6)


def check_resize_crop(folder: Path, config: dict[str, Any]) -> None:
    table = json.loads((folder / "resize_crop.json").read_text())
    fixture = load_file(folder / "resize_crop.safetensors")
    for case in table["cases"]:
        number = case["case"]
        plan = resize_crop_plan(case["h"], case["w"], _views(case))
        image = plan.image(Image.fromarray(fixture[f"{number}.image_in"].numpy()))
        assert torch.equal(image, fixture[f"{number}.image_out_u8"]), f"pixels of case {number}"
        ours = plan.intrinsics(fixture[f"{number}.fxfycxcy_in"]).float()
        close(f"intrinsics of case {number}", ours, fixture[f"{number}.fxfycxcy_out"], atol=1e-4)
        c2w = torch.linalg.inv(fixture[f"{number}.w2c"]).float()
        close(f"c2w of case {number}", c2w, fixture[f"{number}.c2w"], atol=1e-6)
    for case in table["size_table"]:
        plan = resize_crop_plan(case["h"], case["w"], _views(case))
        assert [3, plan.out_h, plan.out_w] == case["out_chw"], case
        ours = plan.intrinsics(torch.tensor(case["fxfycxcy_in"], dtype=torch.float64))
        close(str(case), ours, torch.tensor(case["fxfycxcy_out"], dtype=torch.float64), atol=1e-3)


def _views(case: dict[str, Any]) -> ViewsConfig:
    names = ("image_size", "patch_size", "square_crop")
    return ViewsConfig(portrait="reference", **{name: case[name] for name in names})


def check_lr_schedule(folder: Path, config: dict[str, Any]) -> None:
    table = json.loads((folder / "lr_schedule.json").read_text())
    kinds = [name for name in ("cosine", "linear", "constant") if name in table]
    assert kinds
    for kind in kinds:
        for case in table[kind] if isinstance(table[kind], list) else [table[kind]]:
            for step, theirs in case["lr"].items():
                ours = learning_rate(int(step), case["base_lr"], case["warmup"], case.get("total", 0), kind)
                assert abs(ours - theirs) <= 1e-12 * case["base_lr"] + 1e-9 * abs(theirs), (kind, case, step, ours)


def check_metrics(folder: Path, config: dict[str, Any]) -> None:
    fixture = load_file(folder / "metrics.safetensors")
    pred, truth, clamped = fixture["pred"], fixture["gt"], fixture["pred_clamped"]
    close("psnr", psnr(pred, truth), fixture["psnr"], atol=1e-4)
    close("ssim", ssim(pred, truth), fixture["ssim"], atol=1e-5)
    close("ssim of clamped images", ssim(clamped, truth), fixture["ssim_clamped"], atol=1e-5)


def check_interpolate_poses(folder: Path, config: dict[str, Any]) -> None:
    fixture = load_file(folder / "interpolate_poses.safetensors")
    lenses = torch.stack([fixture["K"][:, i, j] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2))], dim=-1)
    paths = [name for name in fixture if name.startswith("traj_")]
    assert paths
    for name in paths:
        settings = re.fullmatch(r"traj_n(\d+)_order([01])(?:_loop([01]))?", name)
        assert settings is not None, name
        frames, order, loop = settings.groups(default="0")
        c2w, intrinsics = interpolate(fixture["c2w"], lenses, int(frames), loop == "1", order == "1")
        close(name, c2w[:, :3], fixture[name], atol=5e-6)
        matrices = fixture[name.replace("traj_", "K_")]
        theirs = torch.stack([matrices[:, i, j] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2))], dim=-1)
        close(f"intrinsics of {name}", intrinsics, theirs, atol=5e-6)


def check_dino_pos_embed(folder: Path, config: dict[str, Any]) -> None:
    fixture = load_file(folder / "dino_pos_embed.safetensors")
    names = [name.removeprefix("out_") for name in fixture if name.startswith("out_")]
    assert names
    for name in names:
        side = int(name.split("_")[1])
        ours = resize_pos_embed(fixture[f"pos_embed_{name}"], side, side, antialias=True)
        close(name, ours, fixture[f"out_{name}"], atol=1e-6)


def check_rmsnorm(folder: Path, config: dict[str, Any]) -> None:
    fixture = load_file(folder / "rmsnorm.safetensors")
    outputs = {name: float(name.removeprefix("out_eps").replace("1e", "1e-")) for name in fixture if "eps" in name}
    assert outputs
    for name, eps in outputs.items():
        norm = RMSNorm(len(fixture["weight"]), eps)
        norm.weight.data = fixture["weight"]
        close(name, norm(fixture["x"]).detach(), fixture[name], atol=2e-6)


def check_view_selector(folder: Path, config: dict[str, Any]) -> None:
    table = json.loads((folder / "view_selector.json").read_text())
    names = ("num_views", "min_frame_dist", "max_frame_dist")
    cfg = ViewsConfig(**{name: table[name] for name in names})
    for case in table["cases"]:
        assert select_views(case["num_frames"], random.Random(case["py_seed"]), cfg) == case["indices"], case


def check_perceptual(folder: Path, config: dict[str, Any]) -> None:
    fixture = load_file(folder / "perceptual.safetensors")
    loss = PerceptualLoss(_synthetic_vgg(json.loads((folder / "perceptual.json").read_text())["seed"]))
    pred = fixture["pred"].requires_grad_()
    differences = torch.stack(loss.differences(pred, fixture["target"]))
    close("differences", differences, fixture["raw_l1"], atol=0, rtol=2e-5)
    value = loss(pred, fixture["target"])
    close("loss", value[None], fixture["loss"], atol=0, rtol=2e-5)
    (gradient,) = torch.autograd.grad(value, pred)
    close("gradient norm", gradient.norm()[None], fixture["grad_norm"], atol=0, rtol=5e-5)


def _synthetic_vgg(seed: int) -> list[tuple[Tensor, Tensor]]:
    generator = np.random.RandomState(seed)
    weights = []
    for before, after in shapes():
        noise = generator.standard_normal((3, 3, before, after)) * np.sqrt(2 / (before * 9))
        bias = (generator.standard_normal(after) * 0.1).astype(np.float32)
        weights.append(
            (torch.from_numpy(noise.astype(np.float32).transpose(3, 2, 0, 1).copy()), torch.from_numpy(bias))
        )
    return weights
