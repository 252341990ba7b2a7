"""What training minimises: photometric losses of renders and of coarser predictions, and PM-Loss of the Gaussians.

Sources: specs/uplvsm.md section 6 (squared error, VGG-19), specs/lact.md section 7 (LPIPS), specs/depthsplat.md section
11 (coarser predictions), specs/pmloss.md section 2 (PM-Loss and what its trainer leaves out)."""

from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, mse_loss, relu

from novelview.config.schema import LossConfig
from novelview.errors import CheckpointError, ConfigError, DataError
from novelview.losses.lpips import load_lpips
from novelview.losses.pointmap import pointmap_loss
from novelview.models.render import Render
from novelview.scenes.batch import Batch, Views

WIDTHS = ((64, 64), (128, 128), (256, 256, 256, 256), (512, 512, 512, 512), (512, 512, 512, 512))
MATCONVNET_LAYERS = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)
TAPS = (1, 3, 5, 9, 13)  # convolutions whose activation is compared: relu1_2, 2_2, 3_2, 4_2, 5_2
POOLED = (2, 4, 8, 12)  # convolutions that follow a pooling
TAP_SCALES = (1 / 2.6, 1 / 4.8, 1 / 3.7, 1 / 5.6, 10 / 1.5)
MEAN = (123.68, 116.779, 103.939)  # RGB, of images in [0,255]
DAMPED = 1e-8  # factor of a loss that `damp_above` mistrusts (specs/pmloss.md section 2)

Weights = list[tuple[Tensor, Tensor]]


class TrainingLoss(nn.Module):
    """The loss of a batch's renders: `PhotometricLoss` of the images and of what more a model gives; set `step` before.

    Extras that count: `intermediate` [k b v 3 h w], the targets by coarser predictions, the i-th of k weighed
    `intermediate_decay`^(k - i); `means` [b n 3], a Gaussian a context pixel, for PM-Loss where that has a weight."""

    def __init__(self, cfg: LossConfig) -> None:
        super().__init__()
        self.cfg, self.step = cfg, 0
        self.photometric = PhotometricLoss(cfg)
        self.logged = ("pointmap",) if cfg.pointmap.weight > 0 else ()

    def forward(self, render: Render, batch: Batch) -> dict[str, Tensor]:
        """Return loss, mse, psnr, the terms of `PhotometricLoss`, intermediate, and pointmap, unweighted, if any."""
        assert batch.target.images is not None, "training targets have pictures"
        self.photometric.step = self.step
        values = self.photometric(render.images, batch.target.images, batch.target.masks)
        own = values["loss"]
        if "intermediate" in render.extras:
            values["intermediate"] = self._intermediate(render.extras["intermediate"], batch.target)
            values["loss"] = values["loss"] + values["intermediate"]
        if self.cfg.pointmap.weight > 0:
            values["pointmap"] = self._pointmap(render, batch)
            values["loss"] = values["loss"] + self.cfg.pointmap.weight * values["pointmap"]
        if self.cfg.damp_above > 0 and self.step > self.cfg.damp_after:
            values["loss"] = torch.where(own.detach() > self.cfg.damp_above, DAMPED, 1.0) * values["loss"]
        return values

    def _intermediate(self, renders: Float[Tensor, "k b v 3 h w"], target: Views) -> Float[Tensor, ""]:
        truth = target.images
        assert truth is not None, "training targets have pictures"
        weights = [self.cfg.intermediate_decay ** (len(renders) - number) for number in range(len(renders))]
        found = [self.photometric(images, truth, target.masks) for images in renders]
        total = torch.stack([weight * values["loss"] for weight, values in zip(weights, found, strict=True)]).sum()
        if self.cfg.stale_lpips and self.cfg.pointmap.weight > 0 and "lpips" in found[-1]:
            total = total + sum(weights) * self.cfg.lpips * found[-1]["lpips"]
        return total

    def _pointmap(self, render: Render, batch: Batch) -> Float[Tensor, ""]:
        cfg = self.cfg.pointmap
        if self.step < cfg.apply_after:
            return render.images.new_zeros(())
        means, points, key = render.extras.get("means"), batch.context.points, "train.losses.pointmap.weight"
        if means is None:
            raise DataError(f"{key}: this model predicts no Gaussians to hold to a pointmap")
        if points is None:
            raise DataError(f"{key}: the batch has no pointmaps; give io.pointmaps")
        cloud = points.movedim(2, -1).flatten(1, 3)  # view-major, then row-major pixels, as the Gaussians are
        if cloud.shape != means.shape:
            raise DataError(f"PM-Loss: {means.shape[1]} Gaussians a scene for {cloud.shape[1]} pixels of its pointmaps")
        return pointmap_loss(means, cloud, cfg.ignore_large, cfg.detach_alignment).mean()


class PhotometricLoss(nn.Module):
    """Weighted sum of mean squared error, VGG-19 loss and, from step `lpips_from`, LPIPS; weight 0: not computed."""

    def __init__(self, cfg: LossConfig) -> None:
        super().__init__()
        self.cfg, self.step = cfg, 0
        if cfg.mse + cfg.perceptual + cfg.lpips <= 0:
            raise ConfigError("train.losses: every weight is 0; give mse, perceptual or lpips a positive weight")
        self.perceptual = PerceptualLoss(read_matconvnet(str(cfg.vgg_weights))) if cfg.perceptual > 0 else None
        self.lpips = load_lpips(str(cfg.lpips_weights)) if cfg.lpips > 0 else None

    def forward(
        self,
        render: Float[Tensor, "b v 3 h w"],
        target: Float[Tensor, "b v 3 h w"],
        masks: Bool[Tensor, "b v h w"] | None = None,
    ) -> dict[str, Tensor]:
        """Return loss, mse, psnr = -10 log10(mse) of all pixels, and perceptual and lpips where they have a weight.

        masks: pixels that count. The others show the target in both pictures, and sums are over those that count."""
        share: Tensor | float = 1.0
        if masks is not None:
            share = masks.float().mean().clamp_min(1 / masks.numel())
            render = torch.where(masks[:, :, None], render, target.to(render.dtype))
        mse = mse_loss(render, target)
        terms = {"mse": filtered_mse(render, target, self.cfg.ignore_large_mse) if self.cfg.ignore_large_mse else mse}
        flat = render.flatten(0, 1), target.flatten(0, 1)
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual(*flat)
        if self.lpips is not None and self.step >= self.cfg.lpips_from:
            terms["lpips"] = self.lpips(*flat, normalize=True).mean()
        if masks is not None:
            terms, mse = {name: value / share for name, value in terms.items()}, mse / share
        loss = torch.stack([getattr(self.cfg, name) * value for name, value in terms.items()]).sum()
        return {"loss": loss, **terms, "mse": mse, "psnr": -10 * mse.detach().log10()}


def filtered_mse(render: Float[Tensor, "*n"], target: Float[Tensor, "*n"], limit: float) -> Float[Tensor, ""]:
    """Return the mean of the squared errors below `limit`, 0 when there are none."""
    error = (render - target).square()
    small = error < limit
    return torch.where(small, error, 0.0).sum() / small.sum().clamp_min(1)


class PerceptualLoss(nn.Module):
    """Weighted mean absolute differences of images and of five VGG-19 activations; frozen, not part of checkpoints."""

    mean: Tensor

    def __init__(self, weights: Weights) -> None:
        super().__init__()
        for index, (weight, bias) in enumerate(weights):
            self.register_buffer(f"weight{index}", weight, persistent=False)
            self.register_buffer(f"bias{index}", bias, persistent=False)
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None], persistent=False)

    def forward(self, render: Float[Tensor, "n 3 h w"], target: Float[Tensor, "n 3 h w"]) -> Float[Tensor, ""]:
        """Return the loss of images in [0,1]."""
        pairs = zip(self.differences(render, target), (1.0, *TAP_SCALES), strict=True)
        return torch.stack([value * scale for value, scale in pairs]).sum() / 255

    def differences(self, render: Tensor, target: Tensor) -> list[Float[Tensor, ""]]:
        """Return the six mean absolute differences: of the images in [0,255], then of each tapped activation."""
        pairs = zip(self.features(render), self.features(target), strict=True)
        return [(one - other).abs().mean() for one, other in pairs]

    def features(self, images: Float[Tensor, "n 3 h w"]) -> list[Tensor]:
        """Return what is compared of images in [0,1]: them in [0,255] without the mean, then each tapped activation."""
        features = [x := images * 255 - self.mean]
        for index in range(TAPS[-1] + 1):
            if index in POOLED:
                x = avg_pool2d(x, 2)
            x = relu(conv2d(x, getattr(self, f"weight{index}"), getattr(self, f"bias{index}"), padding=1))
            if index in TAPS:
                features.append(x)
        return features


def shapes() -> list[tuple[int, int]]:
    """Return (input, output) channels of VGG-19's 16 convolutions."""
    return list(pairwise([3, *(width for stage in WIDTHS for width in stage)]))


def read_matconvnet(path: Path | str) -> Weights:
    """Read 16 pairs of weight [out in 3 3] and bias [out], float32; raises CheckpointError for any other file."""
    from scipy.io import loadmat

    if not Path(path).is_file():
        advice = "fetch vgg19, or set train.losses.perceptual=0 to train without it"
        raise CheckpointError(f"{path}: no such file; {advice}")
    try:
        layers = loadmat(str(path))["layers"][0]
        pairs = [map(torch.from_numpy, layers[index][0][0][2][0]) for index in MATCONVNET_LAYERS]
        weights = [(one.permute(3, 2, 0, 1).contiguous().float(), bias.flatten().float()) for one, bias in pairs]
    except Exception as error:  # scipy fails in many ways on a damaged file
        raise CheckpointError(f"{path}: not MatConvNet's VGG-19 ({type(error).__name__}); fetch it again") from None
    if [(weight.shape[1], weight.shape[0]) for weight, _ in weights] != shapes():
        raise CheckpointError(f"{path}: its convolutions are not VGG-19's; fetch imagenet-vgg-verydeep-19.mat")
    return weights
