"""Textures of the rooms' surfaces: photographs bundled inside scikit-image's wheel, and patterns made up from seeds.

The photographs are split once and for all: rooms with held-out ones show surfaces that no model was trained on.
Patterns are dead leaves over coloured noise, with the edges and the spectrum of photographs (Lee, Mumford and Huang,
IJCV 2001), from which networks can learn (Baradad et al., Learning to See by Looking at Noise, NeurIPS 2021)."""

import functools
import re
from dataclasses import dataclass
from importlib.resources import files
from io import BytesIO
from itertools import accumulate

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from novelview.errors import DataError

TRAINING_GREY = ("brick.png", "gravel.png", "grass.png", "moon.png")
TRAINING = ("astronaut.png", "coffee.png", "motorcycle_left.png", "ihc.png", "hubble_deep_field.jpg", *TRAINING_GREY)
HELD_OUT = ("chelsea.png", "retina.jpg", "rocket.jpg", "camera.png", "coins.png")
GREY = frozenset({*TRAINING_GREY, "camera.png", "coins.png"})
KEPT = {"retina.jpg": 0.7}  # share of the side kept around the centre; the rest of this one is a black frame
SHARP_SIZE = 512  # the bundled photographs are about this large
OVERSAMPLING = 4  # stored texels per low-passed texel, so that bilinear lookup shows no facets
LEAST_MEAN = 0.40  # darker photographs are brightened to this mean, at most by MOST_GAIN
MOST_GAIN = 2.0

PATTERN = re.compile(r"pattern-(\d+)")
PATTERN_SEED = 20_010_409  # patterns are the same for every data set
LEAVES = (60, 600)  # range of their number
RADII = (0.008, 0.25)  # of leaves, as shares of the side; as many of each size as cover the same area
ROUGH = (0.01, 0.06)  # deviation of the noise on a leaf
COLOUR = 0.25  # of noise and leaves, as a share of what they differ by in brightness; photographs have about as much


def pool(split: str, patterns: int = 0) -> tuple[str, ...]:
    """Return a split's textures: held-out photographs for "new", else training ones, then patterns `pattern-<n>`."""
    return HELD_OUT if split == "new" else (*TRAINING, *(f"pattern-{number}" for number in range(patterns)))


def photographs(names: tuple[str, ...]) -> int:
    """Return how many of a pool's names, the first ones, are photographs."""
    return sum(name in TRAINING or name in HELD_OUT for name in names)


@dataclass(frozen=True)
class Textures:
    """All mip levels of a pool; level l of texture k starts at row `starts[l] + k * sizes[l]**2`."""

    texels: Float[Tensor, "n 4"]  # RGB in [0,1] and a zero
    starts: Int[Tensor, " levels"]
    sizes: Int[Tensor, " levels"]  # halves of a power of two, down to 1


@functools.lru_cache(maxsize=4)
def textures(names: tuple[str, ...], texels: int, device: str = "cpu") -> Textures:
    """Load photographs and draw patterns, low-passed to `texels` a side (0: sharp); DataError for one not bundled."""
    size = SHARP_SIZE if texels == 0 else 1 << (OVERSAMPLING * texels - 1).bit_length()
    level = torch.stack([_texture(name, texels, size) for name in names])
    levels = [level]
    while level.shape[1] > 1:
        level = (level[:, ::2, ::2] + level[:, 1::2, ::2] + level[:, ::2, 1::2] + level[:, 1::2, 1::2]) * 0.25
        levels.append(level)
    starts = [0, *accumulate(len(item) * item.shape[1] ** 2 for item in levels[:-1])]
    rows, sides = torch.tensor([starts, [item.shape[1] for item in levels]], dtype=torch.int32, device=device)
    flat = torch.cat([item.reshape(-1, 3) for item in levels])
    return Textures(torch.nn.functional.pad(flat, (0, 1)).to(device), rows, sides)


def _texture(name: str, texels: int, size: int) -> Float[Tensor, "size size 3"]:
    image = pattern(name, SHARP_SIZE) or _photograph(name)
    if texels:
        image = image.filter(ImageFilter.GaussianBlur(0.5 * image.width / texels))
    image = image.resize((size, size), Image.Resampling.BICUBIC)
    values = torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)
    gain = min(max(LEAST_MEAN / max(values.mean().item(), 1e-3), 1.0), MOST_GAIN)
    return (values * gain).clamp(0.0, 1.0)


def _photograph(name: str) -> Image.Image:
    try:
        content = files("skimage.data").joinpath(name).read_bytes()
    except (FileNotFoundError, ModuleNotFoundError):
        raise DataError(f"scikit-image does not bundle {name}; install the version pinned in constraints.txt") from None
    image = Image.open(BytesIO(content)).convert("RGB")
    side = round(min(image.size) * KEPT.get(name, 1.0))
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def pattern(name: str, size: int) -> Image.Image | None:
    """Return the pattern of a name as a square RGB picture of `size` pixels a side, None for any other name."""
    found = PATTERN.fullmatch(name)
    if not found:
        return None
    rng = np.random.default_rng([PATTERN_SEED, int(found[1])])
    picture = Image.fromarray(_bytes(0.5 + rng.uniform(0.05, 0.25) * _noise(rng, size)))
    draw, (low, high) = ImageDraw.Draw(picture), RADII
    shares = rng.uniform(size=int(rng.integers(*LEAVES, endpoint=True)))
    # Their density falls with the third power; large ones come first, so that small ones are seen.
    radii = np.sort((low**-2 + shares * (high**-2 - low**-2)) ** -0.5)[::-1]
    # Colours lie around a few of their own: a pattern looks like one material, not like confetti.
    count = int(rng.integers(2, 7))
    centres = rng.uniform(0, 1, (count, 1, 1)) + COLOUR * rng.normal(size=(count, 1, 3))
    colours = ((centres + 0.08 * rng.normal(size=(1, 12, 3))).clip(0, 1) * 255).astype(np.uint8).reshape(-1, 3)
    for reach in radii * size:  # a disc, or a polygon of three to six corners, somewhere
        x, y = rng.uniform(0, size, 2)
        colour = tuple(int(value) for value in colours[rng.integers(len(colours))])
        if (corners := int(rng.integers(2, 7))) == 2:
            draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=colour)
        else:
            angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
            draw.polygon([(x + reach * np.cos(angle), y + reach * np.sin(angle)) for angle in angles], fill=colour)
    grain = rng.uniform(*ROUGH) * _noise(rng, size)
    return Image.fromarray(_bytes(np.asarray(picture, dtype=np.float64) / 255 + grain))


def _bytes(values: Float[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    return (values.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _noise(rng: np.random.Generator, size: int) -> Float[np.ndarray, "size size 3"]:
    """Return noise of deviation 1 whose amplitude falls as a random power of the frequency, colours mixed at random."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None])
    frequency[0, 0] = 1 / size
    fall = frequency ** -rng.uniform(0.9, 1.7)
    waves = np.fft.rfft2(rng.normal(size=(3, size, size))) * fall
    mixing = np.array([1.0, 0.0, 0.0]) + COLOUR * rng.normal(size=(3, 3))
    mixed = np.einsum("ij,jhw->hwi", mixing, np.fft.irfft2(waves, (size, size)))
    return (mixed - mixed.mean()) / mixed.std()
