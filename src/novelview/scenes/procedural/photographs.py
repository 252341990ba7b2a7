"""The photographs on the rooms' surfaces: those bundled inside scikit-image's wheel, read from disk without network.

They are split once and for all, so that rooms with held-out photographs show surfaces no model was trained on.
"""

import functools
from dataclasses import dataclass
from importlib.resources import files
from io import BytesIO

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image, ImageFilter
from torch import Tensor

from novelview.errors import DataError
from novelview.scenes.procedural.patterns import pattern, pattern_name

TRAINING = (
    "astronaut.png",
    "coffee.png",
    "motorcycle_left.png",
    "ihc.png",
    "hubble_deep_field.jpg",
    "brick.png",
    "gravel.png",
    "grass.png",
    "moon.png",
)
HELD_OUT = ("chelsea.png", "retina.jpg", "rocket.jpg", "camera.png", "coins.png")
GREY = frozenset({"brick.png", "gravel.png", "camera.png", "coins.png", "grass.png", "moon.png"})
KEPT = {"retina.jpg": 0.7}  # share of the side kept around the centre; the rest of this one is a black frame
SHARP_SIZE = 512  # the bundled photographs are about this large
OVERSAMPLING = 4  # stored texels per low-passed texel, so that bilinear lookup shows no facets
LEAST_MEAN = 0.40  # darker photographs are brightened to this mean, at most by MOST_GAIN
MOST_GAIN = 2.0


def pool(split: str, patterns: int = 0) -> tuple[str, ...]:
    """Return the names of a split's textures: held-out photographs for "new", else training ones, then patterns."""
    return HELD_OUT if split == "new" else (*TRAINING, *(pattern_name(number) for number in range(patterns)))


def photographs(names: tuple[str, ...]) -> int:
    """Return how many of a pool's names, the first ones, are photographs."""
    return sum(name in TRAINING or name in HELD_OUT for name in names)


@dataclass(frozen=True)
class Textures:
    """All mip levels of a pool in one flat buffer.

    texels: [n 4] RGB in [0,1] and a zero; level l of texture k starts at row `starts[l] + k * sizes[l]**2`.
    starts, sizes: [levels], sizes halving from a power of two down to 1.
    """

    texels: Float[Tensor, "n 4"]
    starts: Int[Tensor, " levels"]
    sizes: Int[Tensor, " levels"]


@functools.lru_cache(maxsize=4)
def textures(names: tuple[str, ...], texels: int, device: str = "cpu") -> Textures:
    """Load photographs and draw patterns, low-passed to `texels` a side (0: sharp), with mip levels; cached.

    Raises DataError when scikit-image does not bundle one of them.
    """
    size = SHARP_SIZE if texels == 0 else 1 << (OVERSAMPLING * texels - 1).bit_length()
    level = torch.stack([_photograph(name, texels, size) for name in names])
    levels = [level]
    while level.shape[1] > 1:
        level = (level[:, ::2, ::2] + level[:, 1::2, ::2] + level[:, ::2, 1::2] + level[:, 1::2, 1::2]) * 0.25
        levels.append(level)
    counts = [item.shape[0] * item.shape[1] ** 2 for item in levels]
    starts = [sum(counts[:number]) for number in range(len(levels))]
    flat = torch.cat([item.reshape(-1, 3) for item in levels])
    flat = torch.nn.functional.pad(flat, (0, 1))
    sizes = torch.tensor([item.shape[1] for item in levels], dtype=torch.int32)
    return Textures(flat.to(device), torch.tensor(starts, dtype=torch.int32, device=device), sizes.to(device))


def _photograph(name: str, texels: int, size: int) -> Float[Tensor, "size size 3"]:
    image = pattern(name, SHARP_SIZE) or _square(_read(name), KEPT.get(name, 1.0))
    if texels:
        image = image.filter(ImageFilter.GaussianBlur(0.5 * image.width / texels))
    image = image.resize((size, size), Image.Resampling.BICUBIC)
    values = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)
    gain = min(max(LEAST_MEAN / max(values.mean().item(), 1e-3), 1.0), MOST_GAIN)
    return (values * gain).clamp(0.0, 1.0)


def _read(name: str) -> Image.Image:
    try:
        content = files("skimage.data").joinpath(name).read_bytes()
    except (FileNotFoundError, ModuleNotFoundError):
        raise DataError(f"scikit-image does not bundle {name}; install the version pinned in constraints.txt") from None
    return Image.open(BytesIO(content)).convert("RGB")


def _square(image: Image.Image, kept: float) -> Image.Image:
    side = round(min(image.size) * kept)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))
