"""How sharp a render is beside the truth, without a learned network and without being taken in by noise.

The measure is built on the metric Q of Zhu and Milanfar (Automatic Parameter Selection for Denoising Algorithms Using a
No-Reference Measure of Image Content, IEEE Transactions on Image Processing 19(12), 2010) of the render over that of
the truth, with Roberts' diagonal differences, which stay uncorrelated under white noise.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from novelview.errors import DataError

PATCH = 8  # gradients a side of a patch
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601
CHANCE = 1e-3  # share of patches of pure white noise that pass for structure
CAP = 2.0  # most that a patch counts, in multiples of the target's Q; none where the target has no structure
FLAT = 1e-3  # Q of a patch that the eye takes for flat; keeps the ratio of two flat pictures at 1


def sharpness(pred: Float[Tensor, "*n 3 h w"], target: Float[Tensor, "*n 3 h w"]) -> Float[Tensor, "*n"]:
    """Return sum min(Q(pred) a, 2 Q(target)) / sum Q(target), over the patches of every image.

    Luma of images clamped to [0,1] is differenced along both diagonals, and s1 >= s2 are the singular values of the
    64 gradients of a patch: Q = s1 (s1 - s2) / (s1 + s2), taken as 0 where the coherence (s1 - s2) / (s1 + s2) stays
    below the level that white noise exceeds in one patch of a thousand. a = max(0, cos 2t) for the angle t between the
    main gradients of the two, so that edges the target does not have, as borders of blocks, count little. Both sums
    get FLAT for every patch of the image; beside a target without any structure everything scores 1.

    1: as sharp as the target; towards 0: blurred; above 1, at most 2: its edges are steeper. Where things lie within a
    patch does not matter, so a picture shifted by a pixel or two stays sharp. Noise spoils the coherence, so it lowers
    the value, and noise alone scores about 0. Raises DataError for images of fewer than 9 pixels a side.
    """
    if min(pred.shape[-2:]) <= PATCH:
        size = f"{pred.shape[-1]}x{pred.shape[-2]}"
        raise DataError(f"sharpness of {size} images: both sides must be above {PATCH} pixels")
    (found, ours), (wanted, theirs) = _structure(pred), _structure(target)
    agreement = (ours * theirs).sum(dim=-1).clamp_min(0)
    # Without the cap a few strong edges beside a target that is nearly flat would decide the mean over all targets.
    ours, theirs = ((value + FLAT).sum(dim=-1) for value in (torch.minimum(found * agreement, CAP * wanted), wanted))
    return ours / theirs


def _structure(image: Float[Tensor, "*n 3 h w"]) -> tuple[Float[Tensor, "*n p"], Float[Tensor, "*n p 2"]]:
    """Return Q of every whole patch, 0 where its gradients have no common direction beyond chance, and that direction.

    The direction is (cos 2t, sin 2t), so that gradients of opposite sign agree.
    """
    luma = torch.einsum("...chw,c->...hw", image.float().clamp(0, 1), image.new_tensor(LUMA, dtype=torch.float32))
    down = luma[..., 1:, 1:] - luma[..., :-1, :-1]
    up = luma[..., :-1, 1:] - luma[..., 1:, :-1]
    xx, xy, yy = (_patch_sums(product) for product in (down * down, down * up, up * up))
    twice = torch.stack([0.5 * (xx - yy), xy], dim=-1)
    middle, reach = 0.5 * (xx + yy), twice.norm(dim=-1)
    first, second = (middle + reach).sqrt(), (middle - reach).clamp_min(0).sqrt()
    coherence = (first - second) / (first + second).clamp_min(1e-12)
    return first * coherence * (coherence > _chance_level()), twice / reach[..., None].clamp_min(1e-20)


def _patch_sums(values: Float[Tensor, "*n a b"]) -> Float[Tensor, "*n p"]:
    rows, columns = values.shape[-2] // PATCH, values.shape[-1] // PATCH
    whole = values[..., : rows * PATCH, : columns * PATCH]
    return whole.unflatten(-1, (columns, PATCH)).unflatten(-3, (rows, PATCH)).sum(dim=(-3, -1)).flatten(-2)


def _chance_level() -> float:
    """Return the coherence that a patch of white noise exceeds with probability CHANCE (Zhu and Milanfar)."""
    likely = CHANCE ** (1 / (PATCH**2 - 1))
    return math.sqrt((1 - likely) / (1 + likely))
