"""From raw channels to Gaussians against the reference, in the PM-Loss variant."""

from pathlib import Path
from typing import Any

from adapter_fixture import adapter_options, verify_adapter

from novelview.config.models import GaussianConfig


def check_gaussians(folder: Path, config: dict[str, Any]) -> None:
    cfg = GaussianConfig(**adapter_options(config), scale_activation="exp", unit_rays=True)
    verify_adapter(folder, config, cfg)
