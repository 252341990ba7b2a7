"""How pictures are cut for VGGT, against the reference: shapes of every case, pixels where the picture is recorded."""

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file

from novelview.models.vggt.estimator import MODES, preprocess

EVERY = 37  # rows and columns between the recorded pixels


def check_shapes(folder: Path, config: dict[str, Any]) -> None:
    recorded = load_file(folder / "tensors.safetensors")
    for number, (height, width) in enumerate(config["sizes_hw"]):
        for mode in MODES:
            images, fits = preprocess([Image.new("RGB", (width, height))], mode)
            assert list(images.shape) == recorded[f"img{number}_{mode}_shape"].tolist(), (number, mode)
            left, top = -fits[0].left, -fits[0].top
            assert (left > 0 or top > 0) == bool((images == 1).any()), (number, mode)


def check_pixels(folder: Path, config: dict[str, Any]) -> None:
    recorded = load_file(folder / "tensors.safetensors")
    pictures = {name.split("_")[0]: value for name, value in recorded.items() if name.endswith("_seedgrid")}
    assert pictures
    for name, pixels in pictures.items():
        for mode in MODES:
            images, _ = preprocess([Image.fromarray(pixels.numpy())], mode)
            ours = images[..., ::EVERY, ::EVERY]
            torch.testing.assert_close(ours, recorded[f"{name}_{mode}_sub"], atol=1e-6, rtol=0)
