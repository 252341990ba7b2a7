"""What training minimises: photometric losses of the renders, of coarser predictions, and PM-Loss of the Gaussians."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from novelview.config.schema import LossConfig
from novelview.devices import full_precision
from novelview.errors import DataError
from novelview.losses.photometric import PhotometricLoss
from novelview.losses.pointmap import pointmap_loss
from novelview.models.render import Render
from novelview.scenes.batch import Batch

DAMPED = 1e-8  # factor of a loss that `damp_above` mistrusts (specs/pmloss.md section 2)


class TrainingLoss(nn.Module):
    """The loss of a batch's renders: `PhotometricLoss` of the images and, where a model gives more, of that too.

    extras of the render that count: `intermediate` [k b v 3 h w], the same targets by coarser predictions, the i-th of
    k weighed `intermediate_decay`^(k - i); `means` [b n 3], a Gaussian a context pixel, held to the teacher's pointmap
    where PM-Loss has a weight (specs/depthsplat.md section 11, specs/pmloss.md section 2). Set `step` before a call.
    """

    def __init__(self, cfg: LossConfig) -> None:
        super().__init__()
        self.cfg, self.step = cfg, 0
        self.photometric = PhotometricLoss(cfg)
        self.logged = ("pointmap",) if cfg.pointmap.weight > 0 else ()

    def forward(self, render: Render, batch: Batch) -> dict[str, Tensor]:
        """Return loss, mse, psnr, the terms of `PhotometricLoss`, and intermediate and pointmap where there are any.

        `pointmap` is unweighted, and 0 before its first step. Raises DataError when PM-Loss lacks means or pointmaps.
        """
        assert batch.target.images is not None, "training targets have pictures"
        self.photometric.step = self.step
        values = self.photometric(render.images, batch.target.images)
        own = values["loss"]
        if "intermediate" in render.extras:
            values["intermediate"] = self._intermediate(render.extras["intermediate"], batch.target.images)
            values["loss"] = values["loss"] + values["intermediate"]
        if self.cfg.pointmap.weight > 0:
            values["pointmap"] = self._pointmap(render, batch)
            values["loss"] = values["loss"] + self.cfg.pointmap.weight * values["pointmap"]
        if self.cfg.damp_above > 0 and self.step > self.cfg.damp_after:
            values["loss"] = torch.where(own.detach() > self.cfg.damp_above, DAMPED, 1.0) * values["loss"]
        return values

    def _intermediate(self, renders: Float[Tensor, "k b v 3 h w"], truth: Tensor) -> Float[Tensor, ""]:
        weights = [self.cfg.intermediate_decay ** (len(renders) - number) for number in range(len(renders))]
        found = [self.photometric(images, truth) for images in renders]
        total = torch.stack([weight * values["loss"] for weight, values in zip(weights, found, strict=True)]).sum()
        if self.cfg.stale_lpips and self.cfg.pointmap.weight > 0 and "lpips" in found[-1]:
            total = total + sum(weights) * self.cfg.lpips * found[-1]["lpips"]
        return total

    def _pointmap(self, render: Render, batch: Batch) -> Float[Tensor, ""]:
        cfg = self.cfg.pointmap
        if self.step < cfg.apply_after:
            return render.images.new_zeros(())
        means, points = render.extras.get("means"), batch.context.points
        if means is None:
            raise DataError("train.losses.pointmap.weight: this model predicts no Gaussians to hold to a pointmap")
        if points is None:
            raise DataError("train.losses.pointmap.weight: the batch has no pointmaps; give io.pointmaps")
        cloud = points.movedim(2, -1).flatten(1, 3)  # view-major, then row-major pixels, as the Gaussians are
        if cloud.shape != means.shape:
            raise DataError(f"PM-Loss: {means.shape[1]} Gaussians a scene for {cloud.shape[1]} pixels of its pointmaps")
        with full_precision(means):
            return pointmap_loss(means.float(), cloud.float(), cfg.ignore_large, cfg.detach_alignment).mean()
