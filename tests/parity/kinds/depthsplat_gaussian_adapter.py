"""From raw channels to Gaussians against the reference."""

from pathlib import Path
from typing import Any

from adapter_fixture import adapter_options, verify_adapter

from novelview.config.models import GaussianConfig


def check_gaussians(folder: Path, config: dict[str, Any]) -> None:
    verify_adapter(folder, config, GaussianConfig(**adapter_options(config)))
