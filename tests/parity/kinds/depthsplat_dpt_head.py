"""The dense heads of DepthSplat against the reference."""

from pathlib import Path
from typing import Any

import torch
from depthsplat_fixture import loaded, near, tensors

from novelview.models.dpt import DepthSplatDPT


@torch.no_grad()
def check_values(folder: Path, config: dict[str, Any]) -> None:
    given = tensors(folder)
    mono = [given[f"mono{number}"] for number in range(4)]
    cnn = [given[f"cnn{number}_high_to_low"] for number in (2, 1, 0)]
    mv = [given[f"mv{number}_low_to_high"] for number in range(config["num_scales"])]
    head = DepthSplatDPT(
        config["in_channels"],
        config["out_channels"],
        config["features"],
        [value.shape[1] for value in cnn],
        [value.shape[1] for value in mv],
        config["downsample_factor"],
        depth=not config["return_feature"],
    )
    depth = None if config["return_feature"] else given["depth"]
    near("out", loaded(folder, head, config)(mono, cnn, mv, depth), given["out"])
