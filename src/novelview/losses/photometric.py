"""The training loss: mean squared error, VGG-19 perceptual loss and LPIPS, weighted (specs/uplvsm.md section 6)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from novelview.config.schema import LossConfig
from novelview.errors import ConfigError
from novelview.losses.lpips import load_lpips
from novelview.losses.perceptual import PerceptualLoss, read_matconvnet


class PhotometricLoss(nn.Module):
    """Weighted sum of the terms with a positive weight; a term of weight 0 needs no file and is not computed.

    LPIPS joins when `step`, which the training loop counts, has reached `cfg.lpips_from` (specs/lact.md section 7).
    Raises CheckpointError when the weights a term needs are not on disk, ConfigError when no term has a weight.
    """

    def __init__(self, cfg: LossConfig) -> None:
        super().__init__()
        self.cfg, self.step = cfg, 0
        if cfg.mse + cfg.perceptual + cfg.lpips <= 0:
            raise ConfigError("train.losses: every weight is 0; give mse, perceptual or lpips a positive weight")
        self.perceptual = PerceptualLoss(read_matconvnet(str(cfg.vgg_weights))) if cfg.perceptual > 0 else None
        self.lpips = load_lpips(str(cfg.lpips_weights)) if cfg.lpips > 0 else None

    def forward(self, render: Float[Tensor, "b v 3 h w"], target: Float[Tensor, "b v 3 h w"]) -> dict[str, Tensor]:
        """Return loss, mse, psnr = -10 log10(mse), and perceptual and lpips where they have a weight.

        With `ignore_large_mse` the loss has the filtered mean; mse and psnr tell of all pixels all the same.
        """
        mse = mse_loss(render, target)
        terms = {"mse": filtered_mse(render, target, self.cfg.ignore_large_mse) if self.cfg.ignore_large_mse else mse}
        flat = render.flatten(0, 1), target.flatten(0, 1)
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual(*flat)
        if self.lpips is not None and self.step >= self.cfg.lpips_from:
            terms["lpips"] = self.lpips(*flat, normalize=True).mean()
        loss = torch.stack([getattr(self.cfg, name) * value for name, value in terms.items()]).sum()
        return {"loss": loss, **terms, "mse": mse, "psnr": -10 * mse.detach().log10()}


def filtered_mse(render: Float[Tensor, "*n"], target: Float[Tensor, "*n"], limit: float) -> Float[Tensor, ""]:
    """Return the mean of the squared errors below `limit`, 0 when there are none (specs/pmloss.md section 2)."""
    error = (render - target).square()
    kept = error < limit
    return torch.where(kept, error, 0.0).sum() / kept.sum().clamp_min(1)
