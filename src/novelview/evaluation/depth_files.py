"""Depth maps as files: float32 arrays, pictures of 1/depth, and both beside what the cameras saw."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import colormaps
from PIL import Image

from novelview.config.stages import DepthStage
from novelview.files import replacing

COLOURS = "turbo"  # near is red
OUTLIERS = (1.0, 99.0)  # percentiles of 1/depth at the ends of the colours


def coloured(depths: Float[np.ndarray, "n h w"]) -> UInt8[np.ndarray, "n h w 3"]:
    """Return 1/depth in colours, near red and far blue, on one scale for all maps; depths must be positive."""
    inverse = 1 / depths.astype(np.float64)
    low, high = np.percentile(inverse, OUTLIERS)
    place = np.clip((inverse - low) / max(high - low, 1e-12), 0, 1)
    return np.round(colormaps[COLOURS](place)[..., :3] * 255).astype(np.uint8)


def write_depths(
    folder: Path,
    frames: Sequence[int],
    images: UInt8[np.ndarray, "n h w 3"],
    depths: Float[np.ndarray, "n h w"],
    cfg: DepthStage,
) -> None:
    """Write what `cfg` asks for: `{frame}.npy`, `{frame}.png`, and `concat.png`, the views above their depths."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = coloured(depths)
    for frame, depth, picture in zip(frames, depths, pictures, strict=True):
        if cfg.npy:
            with replacing(folder / f"{frame:06d}.npy") as partial, partial.open("wb") as stream:
                np.save(stream, depth.astype(np.float32))
        if cfg.png:
            _write_png(folder / f"{frame:06d}.png", picture)
    if cfg.concat:
        rows = [np.concatenate(list(row), axis=1) for row in (images, pictures)]
        _write_png(folder / "concat.png", np.concatenate(rows))


def _write_png(path: Path, picture: UInt8[np.ndarray, "h w 3"]) -> None:
    with replacing(path) as partial:
        Image.fromarray(picture).save(partial, "PNG")
