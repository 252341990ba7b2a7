"""The encoder of the PM-Loss variant against the reference: features, depths, Gaussians, gradients."""

from pathlib import Path
from typing import Any

from depthsplat_fixture import verify_gradients, verify_values


def check_values(folder: Path, config: dict[str, Any]) -> None:
    verify_values(folder, config)


def check_gradients(folder: Path, config: dict[str, Any]) -> None:
    verify_gradients(folder, config)
