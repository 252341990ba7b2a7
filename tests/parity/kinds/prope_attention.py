"""Attention between relative cameras (PRoPE, GTA) against the reference: transformed tensors, output, gradients."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformer_fixture import close

from novelview.cameras.relative import RelativeCameras, relative_cameras

OUTPUT_ATOL, GRADIENT_ATOL = 5e-6, 1e-5  # specs/prope.md section 7


def _cameras(config: dict[str, Any], w2c: Tensor, lenses: Tensor) -> RelativeCameras:
    assert (config["freq_base"], config["freq_scale"]) == (100.0, 1.0)
    size = config["image_height"], config["image_width"]
    patch, rest = divmod(size[0], config["patches_y"])
    assert not rest and patch * config["patches_x"] == size[1]
    intrinsics = torch.stack([lenses[..., 0, 0], lenses[..., 1, 1], lenses[..., 0, 2], lenses[..., 1, 2]], dim=-1)
    lens = {"prope": intrinsics, "gta": None}[config["variant"]]
    return relative_cameras(torch.linalg.inv(w2c), lens, size, patch, config["head_dim"])


def check_attention(folder: Path, config: dict[str, Any]) -> None:
    inputs = load_file(folder / "inputs.safetensors")
    recorded = load_file(folder / "outputs.safetensors")
    source = _cameras(config, inputs["viewmats"], inputs["Ks"])
    asking = {
        "self": lambda: source,
        "cross": lambda: _cameras(config, inputs["viewmats_query"], inputs["Ks_query"]),
    }[config["form"]]()
    q, k, v = (inputs[name].requires_grad_() for name in "qkv")
    moved = {
        "query_transformed": asking.query(q),
        "key_transformed": source.key(k),
        "value_transformed": source.key(v),
    }
    output = asking.output(scaled_dot_product_attention(*moved.values()))
    (output * inputs["grad_output"]).sum().backward()
    ours = {name: value.detach() for name, value in moved.items()} | {"output": output.detach()}
    for name, values in (("cos", source.cos), ("sin", source.sin)):
        ours |= {f"rope_{name}_x": values[:, 0], f"rope_{name}_y": values[:, 1]}
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        assert tensor.grad is not None
        ours[f"grad_{name}"] = tensor.grad
    assert set(recorded) == set(ours)
    for name, theirs in recorded.items():
        close(name, ours[name], theirs, atol=GRADIENT_ATOL if name.startswith("grad") else OUTPUT_ATOL)
