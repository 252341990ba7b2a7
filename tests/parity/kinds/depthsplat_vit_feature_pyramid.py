"""The feature pyramid of DepthSplat against the reference."""

from pathlib import Path
from typing import Any

import torch
from depthsplat_fixture import loaded, near, tensors

from novelview.models.depthsplat.features import FeaturePyramid


@torch.no_grad()
def check_values(folder: Path, config: dict[str, Any]) -> None:
    given = tensors(folder)
    factors = config["scale_factors"]
    assert factors == [2**level for level in range(len(factors))]
    model = loaded(folder, FeaturePyramid(given["x"].shape[1], len(factors)), config)
    for number, ours in enumerate(model(given["x"])):
        near(f"out{number}", ours, given[f"out{number}"])
