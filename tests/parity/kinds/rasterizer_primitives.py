"""Covariances and the spherical harmonics basis against gsplat's functions."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from novelview.splatting.gaussians import covariance_of, degree_of, sh_basis

ATOL = 1e-5


def check_covariances(folder: Path, config: dict[str, Any]) -> None:
    recorded = load_file(folder / "tensors.safetensors")
    ours = covariance_of(recorded["quats"], recorded["scales"])
    torch.testing.assert_close(ours, recorded["covars"], rtol=1e-5, atol=ATOL)
    identity = torch.eye(3).expand_as(ours)
    torch.testing.assert_close(ours @ recorded["precis"], identity, rtol=0, atol=1e-3)


def check_basis(folder: Path, config: dict[str, Any]) -> None:
    recorded = load_file(folder / "tensors.safetensors")
    names = [name for name in recorded if name.startswith("sh_bases")]
    assert names
    directions = torch.nn.functional.normalize(recorded["dirs"], dim=-1)
    for name in names:
        ours = sh_basis(directions, degree_of(recorded[name].shape[-1]))
        torch.testing.assert_close(ours, recorded[name], rtol=0, atol=ATOL)
