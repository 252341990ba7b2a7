"""Maps of rays: origins and directions, Plücker coordinates, rays of the camera itself; the reference puts d first."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformer_fixture import close

from novelview.cameras.camera import plucker, rays
from novelview.cameras.relative import camray


def check_raymaps(folder: Path, config: dict[str, Any]) -> None:
    inputs, recorded = load_file(folder / "inputs.safetensors"), load_file(folder / "outputs.safetensors")
    lenses, size = inputs["Ks"], (config["height"], config["width"])
    intrinsics = torch.stack([lenses[..., 0, 0], lenses[..., 1, 1], lenses[..., 0, 2], lenses[..., 1, 2]], dim=-1)
    ours = {
        "raymap": torch.cat(rays(inputs["c2w"], intrinsics, *size), dim=-3),
        "plucker": plucker(inputs["c2w"], intrinsics, *size).roll(3, dims=-3),
        "camray": camray(intrinsics, *size).roll(3, dims=-3),
    }
    assert set(recorded) == set(ours)
    for name, theirs in recorded.items():
        close(name, ours[name].movedim(-3, -1), theirs, atol=5e-6)
