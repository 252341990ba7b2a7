"""The multi-view transformer of DepthSplat against the reference, the mask of many views included."""

from pathlib import Path
from typing import Any

import pytest
import torch
from depthsplat_fixture import loaded, near, tensors, verify_cotangent
from torch import Tensor

from novelview.models.depthsplat.attention import MultiViewTransformer, other_views


def _run(folder: Path, config: dict[str, Any], given: dict[str, Tensor], aligned: bool = False) -> Tensor:
    assert (config["nhead"], config["ffn_dim_expansion"]) == (1, 4)
    model = MultiViewTransformer(config["d_model"], config["num_layers"], config["attn_num_splits"], aligned)
    return loaded(folder, model, config)(given["features"], _others(given))


def _others(given: dict[str, Tensor]) -> Tensor:
    """Return the recorded neighbours, or with none recorded all other views."""
    if "nn_matrix" in given:
        return given["nn_matrix"][..., 1:]
    batch, views = given["features"].shape[:2]
    return other_views(torch.eye(4).expand(batch, views, 4, 4), local=views, nearest=views)


def check_values_and_gradient(folder: Path, config: dict[str, Any]) -> None:
    given = tensors(folder)
    given["features"].requires_grad_()
    out = _run(folder, config, given)
    near("out", out, given["out"])
    verify_cotangent(out, given, given["features"], "grad_features")


def check_neighbours(folder: Path, config: dict[str, Any]) -> None:
    """Recorded neighbours follow from the recorded camera centres."""
    given = tensors(folder)
    assert ("nn_matrix" in given) == ("xyz" in given)
    if "xyz" in given:
        c2w = torch.eye(4).repeat(*given["xyz"].shape[:2], 1, 1)
        c2w[..., :3, 3] = given["xyz"]
        count = given["nn_matrix"].shape[-1]
        assert torch.equal(other_views(c2w, 2, nearest=count), given["nn_matrix"][..., 1:])


@torch.no_grad()
def check_mask_of_many_views(folder: Path, config: dict[str, Any]) -> None:
    """The aligned mask gives the same with two views and something else with more."""
    given = tensors(folder)
    aligned = _run(folder, config, given, aligned=True)
    if _others(given).shape[-1] == 1 or config["num_layers"] < 2 or config["attn_num_splits"] < 2:
        near("out", aligned, given["out"])
        return
    with pytest.raises(AssertionError, match="out"):
        near("out", aligned, given["out"])
