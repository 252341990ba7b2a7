"""Rotation of spherical harmonics against the reference, every degree recorded."""

from pathlib import Path
from typing import Any

from depthsplat_fixture import near, tensors

from novelview.models.depthsplat.gaussians import rotate_sh


def check_values(folder: Path, config: dict[str, Any]) -> None:
    given = tensors(folder)
    degrees = [name.removeprefix("coeffs_deg") for name in given if name.startswith("coeffs_deg")]
    assert degrees
    for degree in degrees:
        near(f"rotated_deg{degree}", rotate_sh(given[f"coeffs_deg{degree}"], given["R"]), given[f"rotated_deg{degree}"])
