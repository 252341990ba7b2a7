"""Image metrics of the published protocol (specs/uplvsm.md section 10): PSNR, SSIM, LPIPS, one value an image."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from novelview.errors import DataError
from novelview.losses.lpips import load_lpips

MIN_MSE = 1e-10  # identical images score 100 dB: an infinite value would swallow every mean it enters
WINDOW = 11
SIGMA = 1.5
K1, K2 = 0.01, 0.03


def psnr(pred: Float[Tensor, "*n c h w"], target: Float[Tensor, "*n c h w"]) -> Float[Tensor, "*n"]:
    """Return the PSNR of every image in dB, both clamped to [0,1]; an exact copy scores 100 dB.

    Mean squared error over channels and pixels of one image, then -10 log10 (specs/uplvsm.md section 10).
    """
    error = (pred.float().clamp(0, 1) - target.float().clamp(0, 1)).square().mean(dim=(-3, -2, -1))
    return -10 * error.clamp_min(MIN_MSE).log10()


def ssim(pred: Float[Tensor, "*n c h w"], target: Float[Tensor, "*n c h w"]) -> Float[Tensor, "*n"]:
    """Return the SSIM of every image, values in [0,1] without clamping.

    Equals scikit-image's structural_similarity(win_size=11, gaussian_weights=True, channel_axis=0, data_range=1):
    sigma 1.5, sample covariance, averaged over the area where the window fits (specs/uplvsm.md section 10).
    Raises DataError when an image is smaller than the window.
    """
    height, width = pred.shape[-2:]
    if min(height, width) < WINDOW:
        raise DataError(f"SSIM of {width}x{height} images: both sides must be at least {WINDOW} pixels")
    one, other = (image.reshape(-1, image.shape[-3], height, width) for image in (pred, target))
    # image by image on a CPU: the sums of a whole batch do not fit its cache, which costs ten times the arithmetic
    step = 1 if pred.device.type == "cpu" else max(1, len(one))
    scores = [_ssim(*pair) for pair in zip(one.split(step), other.split(step), strict=True)]
    return torch.cat(scores).reshape(pred.shape[:-3]).float()


def _ssim(x: Float[Tensor, "n c h w"], y: Float[Tensor, "n c h w"]) -> Float[Tensor, " n"]:
    x, y = x.double(), y.double()  # the variances are differences of nearly equal numbers
    mean_x, mean_y, xx, yy, xy = _blur(torch.stack([x, y, x * x, y * y, x * y]))
    sample = WINDOW**2 / (WINDOW**2 - 1)
    var_x, var_y, cov = (sample * part for part in (xx - mean_x**2, yy - mean_y**2, xy - mean_x * mean_y))
    c1, c2 = K1**2, K2**2
    score = (2 * mean_x * mean_y + c1) * (2 * cov + c2) / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return score.mean(dim=(-3, -2, -1))


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


class Lpips:
    """LPIPS with VGG-16 features, version 0.1, for images in [0,1] (specs/uplvsm.md section 10).

    weights: torchvision's `vgg16-397923af.pth` on disk; the calibration weights come with the lpips package. Nothing
    is ever downloaded. Raises DataError when the file is not a VGG-16 state dict.
    """

    def __init__(self, weights: Path | str, device: torch.device | str = "cpu") -> None:
        self.network = load_lpips(weights).to(device)

    @torch.no_grad()
    def __call__(self, pred: Float[Tensor, "*n 3 h w"], target: Float[Tensor, "*n 3 h w"]) -> Float[Tensor, "*n"]:
        """Return the distance of every pair of images; 0 for equal ones."""
        one, other = (image.flatten(0, -4).float() for image in (pred, target))
        return self.network(one, other, normalize=True).reshape(pred.shape[:-3])


def open_lpips(weights: str | None, device: torch.device | str = "cpu") -> tuple[Lpips | None, str | None]:
    """Return the metric and None, or None and the reason why it cannot be computed."""
    if weights is None:
        return None, "n/a (switched off: eval.lpips_weights=null)"
    if not Path(weights).is_file():
        return None, f"n/a (weights not downloaded: {weights})"
    return Lpips(weights, device), None
