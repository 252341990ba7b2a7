"""Image metrics, one value an image: PSNR, SSIM and LPIPS of the published protocol, and a sharpness of our own.

Source of the first three: specs/uplvsm.md section 10. Sharpness is built on the metric Q of Zhu and Milanfar (Automatic
Parameter Selection for Denoising Algorithms Using a No-Reference Measure of Image Content, IEEE Transactions on Image
Processing 19(12), 2010), with Roberts' diagonal differences, which stay uncorrelated under white noise."""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from novelview.errors import DataError
from novelview.losses.lpips import load_lpips

MIN_MSE = 1e-10  # identical images score 100 dB: an infinite value would swallow every mean it enters
WINDOW = 11
SIGMA = 1.5
K1, K2 = 0.01, 0.03
PATCH = 8  # gradients a side of a patch
LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601
CHANCE = 1e-3  # share of patches of pure white noise that pass for structure (Zhu and Milanfar)
LIKELY = CHANCE ** (1 / (PATCH**2 - 1))
PURE_NOISE = math.sqrt((1 - LIKELY) / (1 + LIKELY))  # coherence
CAP = 2.0  # most that a patch counts, in multiples of the target's Q; none where the target has no structure
FLAT = 1e-3  # Q of a patch that the eye takes for flat; keeps the ratio of two flat pictures at 1


Mask = Bool[Tensor, "*n h w"] | None  # pixels that count; all without


def psnr(pred: Float[Tensor, "*n c h w"], target: Float[Tensor, "*n c h w"], mask: Mask = None) -> Float[Tensor, "*n"]:
    """Return the PSNR of every image in dB, both clamped to [0,1]; an exact copy scores 100 dB."""
    error = (pred.float().clamp(0, 1) - target.float().clamp(0, 1)).square()
    error = error.mean(dim=(-3, -2, -1)) if mask is None else _mean(error.mean(dim=-3), mask)
    return -10 * error.clamp_min(MIN_MSE).log10()


def _mean(values: Float[Tensor, "*n h w"], mask: Bool[Tensor, "*n h w"]) -> Float[Tensor, "*n"]:
    return torch.where(mask, values, 0).sum(dim=(-2, -1)) / mask.sum(dim=(-2, -1)).clamp_min(1)


def covered(pred: Float[Tensor, "*n c h w"], target: Float[Tensor, "*n c h w"], mask: Mask) -> Tensor:
    """Return `pred` with the target's pixels where none count."""
    return pred if mask is None else torch.where(mask[..., None, :, :], pred, target.to(pred.dtype))


def ssim(pred: Float[Tensor, "*n c h w"], target: Float[Tensor, "*n c h w"], mask: Mask = None) -> Float[Tensor, "*n"]:
    """Return the SSIM of every image, values in [0,1] without clamping; raises DataError for sides below the window's.
    Equals scikit-image's structural_similarity(win_size=11, gaussian_weights=True, channel_axis=0, data_range=1).
    With a mask the mean is over windows around pixels that count, in which the others are equal."""
    height, width = pred.shape[-2:]
    if min(height, width) < WINDOW:
        raise DataError(f"SSIM of {width}x{height} images: both sides must be at least {WINDOW} pixels")
    pred = covered(pred, target, mask)
    one, other = (image.reshape(-1, image.shape[-3], height, width) for image in (pred, target))
    # image by image on a CPU: the sums of a whole batch do not fit its cache, which costs ten times the arithmetic
    step = 1 if pred.device.type == "cpu" else max(1, len(one))
    maps = (_ssim(*pair) for pair in zip(one.split(step), other.split(step), strict=True))
    if mask is None:
        return torch.cat([one.mean(dim=(-3, -2, -1)) for one in maps]).reshape(pred.shape[:-3]).float()
    edge = WINDOW // 2
    middles = mask[..., edge : height - edge, edge : width - edge].flatten(0, -3)
    return _mean(torch.cat([one.mean(dim=-3) for one in maps]), middles).reshape(pred.shape[:-3]).float()


def _ssim(x: Float[Tensor, "n c h w"], y: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c a b"]:
    x, y = x.double(), y.double()  # the variances are differences of nearly equal numbers
    mean_x, mean_y, xx, yy, xy = _blur(torch.stack([x, y, x * x, y * y, x * y]))
    sample = WINDOW**2 / (WINDOW**2 - 1)
    var_x, var_y, cov = (sample * part for part in (xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y))
    c1, c2 = K1**2, K2**2
    return (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))


def _blur(image: Float[Tensor, "*n h w"]) -> Float[Tensor, "*n a b"]:
    """Weight the window with a Gaussian, where it fits; shifted sums, many times faster than a one-channel conv2d."""
    offsets = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    weights = torch.exp(-0.5 * (offsets / SIGMA) ** 2)
    for dim in (-2, -1):
        size = image.shape[dim] - WINDOW + 1
        parts = [image.narrow(dim, start, size) for start in range(WINDOW)]
        image = torch.zeros_like(parts[0])
        for part, weight in zip(parts, (weights / weights.sum()).tolist(), strict=True):
            image.add_(part, alpha=weight)
    return image


Lpips = Callable[[Float[Tensor, "*n 3 h w"], Float[Tensor, "*n 3 h w"]], Float[Tensor, "*n"]]


def open_lpips(weights: str | None, device: torch.device | str = "cpu") -> tuple[Lpips | None, str | None]:
    """Return LPIPS of images in [0,1], 0 for equal ones, and None; or None and the reason why it cannot be computed."""
    if weights is None:
        return None, "n/a (switched off: eval.lpips_weights=null)"
    if not Path(weights).is_file():
        return None, f"n/a (weights not downloaded: {weights})"
    network = load_lpips(weights).to(device)

    @torch.no_grad()
    def lpips(pred: Float[Tensor, "*n 3 h w"], target: Float[Tensor, "*n 3 h w"]) -> Float[Tensor, "*n"]:
        one, other = (image.flatten(0, -4).float() for image in (pred, target))
        return network(one, other, normalize=True).reshape(pred.shape[:-3])

    return lpips, None


def flip(pred: Float[Tensor, "*n 3 h w"], target: Float[Tensor, "*n 3 h w"]) -> Float[Tensor, "*n"]:
    """Return the mean of the LDR-FLIP error map of every image, in [0,1], lower is better: of flip-evaluator, at its 67
    pixels a degree (Andersson and others, FLIP: A Difference Evaluator for Alternating Images, HPG 2020)."""
    from flip_evaluator import evaluate  # on processors alone, and not before it is asked for

    flat = [image.clamp(0, 1).float().flatten(0, -4).movedim(1, -1).contiguous().cpu() for image in (target, pred)]
    pairs = zip(*(images.numpy() for images in flat), strict=True)
    found = [evaluate(true, own, "LDR", True, False)[1] for true, own in pairs]  # inputs are sRGB, no colour map
    return torch.tensor(found, device=pred.device).reshape(pred.shape[:-3])


def sharpness(
    pred: Float[Tensor, "*n 3 h w"], target: Float[Tensor, "*n 3 h w"], mask: Mask = None
) -> Float[Tensor, "*n"]:
    """Return sum min(Q(pred) a, 2 Q(target)) / sum Q(target), over the patches of every image.

    Luma of images clamped to [0,1] is differenced along both diagonals, and s1 >= s2 are the singular values of the
    64 gradients of a patch: Q = s1 (s1 - s2) / (s1 + s2), taken as 0 where the coherence (s1 - s2) / (s1 + s2) stays
    below the level that white noise exceeds in one patch of a thousand. a = max(0, cos 2t) for the angle t between the
    main gradients of the two, so that edges the target does not have count little. Both sums get FLAT for every patch.
    1: as sharp as the target; towards 0: blurred; above 1, at most 2: its edges are steeper. A picture shifted by a
    pixel or two stays sharp; noise lowers the value, and alone scores about 0. With a mask gradients count where all of
    their pixels do. DataError below 9 pixels a side."""
    height, width = pred.shape[-2:]
    if min(height, width) <= PATCH:
        raise DataError(f"sharpness of {width}x{height} images: both sides must be above {PATCH} pixels")
    (found, ours), (wanted, theirs) = _structure(pred, mask), _structure(target, mask)
    agreement = (ours * theirs).sum(dim=-1).clamp_min(0)
    # Without the cap a few strong edges beside a target that is nearly flat would decide the mean over all targets.
    ours, theirs = ((value + FLAT).sum(dim=-1) for value in (torch.minimum(found * agreement, CAP * wanted), wanted))
    return ours / theirs


def _patch_sums(values: Float[Tensor, "*n a b"]) -> Float[Tensor, "*n p"]:
    rows, columns = values.shape[-2] // PATCH, values.shape[-1] // PATCH
    whole = values[..., : rows * PATCH, : columns * PATCH]
    return whole.unflatten(-1, (columns, PATCH)).unflatten(-3, (rows, PATCH)).sum(dim=(-3, -1)).flatten(-2)


def _structure(
    image: Float[Tensor, "*n 3 h w"], mask: Mask = None
) -> tuple[Float[Tensor, "*n p"], Float[Tensor, "*n p 2"]]:
    """Return Q of every whole patch, 0 without a direction beyond chance, and that direction (cos 2t, sin 2t)."""
    luma = torch.einsum("...chw,c->...hw", image.float().clamp(0, 1), image.new_tensor(LUMA, dtype=torch.float32))
    down = luma[..., 1:, 1:] - luma[..., :-1, :-1]
    up = luma[..., :-1, 1:] - luma[..., 1:, :-1]
    if mask is not None:
        whole = mask[..., 1:, 1:] & mask[..., :-1, :-1] & mask[..., :-1, 1:] & mask[..., 1:, :-1]
        down, up = down * whole, up * whole
    xx, xy, yy = (_patch_sums(product) for product in (down * down, down * up, up * up))
    twice = torch.stack([0.5 * (xx - yy), xy], dim=-1)
    middle, reach = 0.5 * (xx + yy), twice.norm(dim=-1)
    first, second = (middle + reach).sqrt(), (middle - reach).clamp_min(0).sqrt()
    coherence = (first - second) / (first + second).clamp_min(1e-12)
    return first * coherence * (coherence > PURE_NOISE), twice / reach[..., None].clamp_min(1e-20)
