"""The U-Net of DepthSplat with attention across views against the reference."""

from pathlib import Path
from typing import Any

from depthsplat_fixture import loaded, near, tensors, verify_cotangent

from novelview.models.depthsplat.features import UNet


def check_values_and_gradient(folder: Path, config: dict[str, Any]) -> None:
    assert config["num_res_blocks"] == 1
    sizes = config["channels"], config["channel_mult"], config["attention_resolutions"], config["num_head_channels"]
    given, model = tensors(folder), loaded(folder, UNet(*sizes), config)
    given["x"].requires_grad_()
    out = model(given["x"], config["num_views"])
    near("out", out, given["out"])
    verify_cotangent(out, given, given["x"], "grad_x")
