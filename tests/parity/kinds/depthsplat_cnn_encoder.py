"""The CNN of DepthSplat against the reference."""

from pathlib import Path
from typing import Any

import torch
from depthsplat_fixture import loaded, near, tensors

from novelview.models.depthsplat.features import Backbone


@torch.no_grad()
def check_values(folder: Path, config: dict[str, Any]) -> None:
    model = loaded(folder, Backbone(config["feature_dims"], config["output_dim"], config["lowest_scale"]), config)
    given = tensors(folder)
    ours = {f"out{2 - number}": value for number, value in enumerate(model(given.pop("image")))}
    assert set(ours) == set(given)
    for name, theirs in given.items():
        near(name, ours[name], theirs)
