"""Made-up textures beside the few photographs: dead leaves over coloured noise, drawn from numbered seeds.

Leaves of all sizes that hide each other give pictures with the edges and the spectrum of photographs (Lee, Mumford and
Huang, Occlusion Models for Natural Images, IJCV 2001), and networks can learn from them what they need for photographs
(Baradad et al., Learning to See by Looking at Noise, NeurIPS 2021).
"""

import re

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

NAME = re.compile(r"pattern-(\d+)")
SEED = 20_010_409  # patterns are the same for every data set
LEAVES = (60, 600)  # range of their number
RADII = (0.008, 0.25)  # of leaves, as shares of the side; as many of each size as cover the same area
ROUGH = (0.01, 0.06)  # deviation of the noise on a leaf
COLOUR = 0.25  # of noise and leaves, as a share of what they differ by in brightness; photographs have about as much


def pattern_name(number: int) -> str:
    """Return the name under which a pattern stands among the photographs."""
    return f"pattern-{number}"


def pattern(name: str, size: int) -> Image.Image | None:
    """Return the pattern of a name as a square RGB picture of `size` pixels a side, None for any other name."""
    found = NAME.fullmatch(name)
    if not found:
        return None
    rng = np.random.default_rng([SEED, int(found[1])])
    picture = Image.fromarray(_bytes(0.5 + rng.uniform(0.05, 0.25) * _noise(rng, size)))
    draw = ImageDraw.Draw(picture)
    radii = _radii(rng, int(rng.integers(*LEAVES, endpoint=True)))
    colours = _palette(rng)
    for radius in radii:
        _leaf(draw, rng, radius * size, size, colours)
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


def _radii(rng: np.random.Generator, count: int) -> Float[np.ndarray, " n"]:
    """Draw radii whose density falls with the third power, large ones first so that small ones are seen."""
    low, high = RADII
    share = rng.uniform(size=count)
    return np.sort((low**-2 + share * (high**-2 - low**-2)) ** -0.5)[::-1]


def _palette(rng: np.random.Generator) -> UInt8[np.ndarray, "n 3"]:
    """Return colours around a few of their own: a pattern looks like one material, not like confetti."""
    count = int(rng.integers(2, 7))
    centres = rng.uniform(0, 1, (count, 1, 1)) + COLOUR * rng.normal(size=(count, 1, 3))
    return ((centres + 0.08 * rng.normal(size=(1, 12, 3))).clip(0, 1) * 255).astype(np.uint8).reshape(-1, 3)


def _leaf(
    draw: ImageDraw.ImageDraw, rng: np.random.Generator, radius: float, size: int, colours: UInt8[np.ndarray, "n 3"]
) -> None:
    """Draw a disc, or a polygon of three to six corners, somewhere."""
    x, y = rng.uniform(0, size, 2)
    colour = tuple(int(value) for value in colours[rng.integers(len(colours))])
    corners = int(rng.integers(2, 7))
    if corners == 2:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
        return
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    draw.polygon([(x + radius * np.cos(angle), y + radius * np.sin(angle)) for angle in angles], fill=colour)
