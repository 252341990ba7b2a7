"""What needs no model: copies and means of the context views, scored beside every model in the same rows."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from novelview.scenes.batch import Views

Images = Float[Tensor, "b t 3 h w"]


def nearest_context(context: Views, target: Views) -> Images:
    """Copy the context view whose camera centre is nearest to the target's; at equal distance, nearest in time.

    Distances are compared to four digits: on a path traversed at constant speed the middle frame is a tie.
    """
    assert context.images is not None
    rows = torch.arange(len(context.images), device=context.images.device)[:, None]
    return context.images[rows, _nearest(context, target)]


def _nearest(context: Views, target: Views) -> Int[Tensor, "b t"]:
    """Return the position of the nearest context view for every target."""
    apart = torch.cdist(target.c2w[..., :3, 3].double(), context.c2w[..., :3, 3].double())
    scale = apart.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)
    steps = (apart / scale * 1e4).round()
    if context.frame is None or target.frame is None:
        return steps.argmin(dim=2)
    later = (target.frame[:, :, None] - context.frame[:, None]).abs().double()
    return (steps + later / (later.amax() + 1)).argmin(dim=2)


def mean_context(context: Views, target: Views) -> Images:
    """Return the mean of the context views, pixel by pixel."""
    assert context.images is not None
    return _for_each_target(context.images.mean(dim=1, keepdim=True), target)


def mean_colour(context: Views, target: Views) -> Images:
    """Return an image of the mean colour over all pixels of the context views."""
    assert context.images is not None
    flat = context.images.mean(dim=(1, 3, 4), keepdim=True).expand_as(context.images[:, :1])
    return _for_each_target(flat, target)


def _for_each_target(image: Float[Tensor, "b 1 3 h w"], target: Views) -> Images:
    return image.expand(-1, target.c2w.shape[1], -1, -1, -1)


BASELINES: dict[str, Callable[[Views, Views], Images]] = {
    "nearest_context": nearest_context,
    "mean_context": mean_context,
    "mean_colour": mean_colour,
}
