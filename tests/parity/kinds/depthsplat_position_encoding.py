"""Positions inside windows and the mask of shifted windows against the reference."""

from pathlib import Path
from typing import Any

import torch
from depthsplat_fixture import near, tensors

from novelview.models.depthsplat.attention import add_positions, shift_mask


def check_positions(folder: Path, config: dict[str, Any]) -> None:
    given = tensors(folder)
    names = {name: int(name.removeprefix("out_split")) for name in given if name.startswith("out_split")}
    assert config["attn_splits"] in names.values()
    assert given["feature"].shape[1] == 2 * config["num_pos_feats"]
    for name, splits in names.items():
        near(name, add_positions(given["feature"], splits), given[name])


def check_mask(folder: Path, config: dict[str, Any]) -> None:
    given = tensors(folder)
    height, width = given["feature"].shape[-2:]
    near("shift_mask", shift_mask(height, width, config["attn_splits"], torch.device("cpu")), given["shift_mask"], 0, 0)
