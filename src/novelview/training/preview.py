"""What a training step looked at and made, as one picture for people."""

import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from novelview.scenes.batch import Batch

CONTEXTS = 4  # context views shown at most


def side_by_side(batch: Batch, render: Float[Tensor, "b v 3 h w"]) -> Float[Tensor, "3 h n"]:
    """Return context views, one target and its render of a batch's first sample, left to right, values as they are."""
    assert batch.context.images is not None and batch.target.images is not None
    context = batch.context.images[0, :CONTEXTS]
    shown = [*context, batch.target.images[0, 0], render[0, 0].detach().to(context.dtype)]
    return torch.cat(shown, dim=-1)


def to_bytes(picture: Float[Tensor, "3 h w"]) -> UInt8[ndarray, "h w 3"]:
    """Return a picture in [0,1], clamped to it, as 8-bit RGB."""
    return (picture.float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
