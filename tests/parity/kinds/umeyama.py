"""The alignment of point clouds against PM-Loss's: similarity, aligned points, gradients of a linear loss."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformer_fixture import relative

from novelview.cameras.align import umeyama

RTOL = 1e-5  # relative L2; the sheet's own recreation has 9.1e-6 in gradients (specs/pmloss.md section 7)


def check_similarity(folder: Path, config: dict[str, Any]) -> None:
    recorded = load_file(folder / "tensors.safetensors")
    found = umeyama(recorded["source"], recorded["target"])
    ours = {
        "scale": found.scale,
        "rotation": found.rotation,
        "translation": found.translation[..., None],
        "aligned": found.points(recorded["source"]),
    }
    for name, value in ours.items():
        assert relative(value, recorded[name]) <= RTOL, name


def check_gradients(folder: Path, config: dict[str, Any]) -> None:
    """Degenerate clouds have no recorded gradients; ours must be finite all the same."""
    recorded = load_file(folder / "tensors.safetensors")
    source, target = (recorded[name].clone().requires_grad_() for name in ("source", "target"))
    (umeyama(source, target).points(source) * recorded["cotangent"]).sum().backward()
    for name, leaf in (("grad_source", source), ("grad_target", target)):
        assert leaf.grad is not None and torch.isfinite(leaf.grad).all(), name
        if name in recorded:
            assert relative(leaf.grad, recorded[name]) <= RTOL, name
    assert ("grad_source" in recorded) == ("grad_target" in recorded)
