"""Rays of the PM-Loss variant against the reference: directions of unit length; the renderer's field of view."""

from pathlib import Path
from typing import Any

from adapter_fixture import verify_field_of_view, verify_rays


def check_rays(folder: Path, config: dict[str, Any]) -> None:
    verify_rays(folder, unit=True)


def check_field_of_view(folder: Path, config: dict[str, Any]) -> None:
    verify_field_of_view(folder)
