"""What the checks of rendered fixtures share: comparisons that know of pixels a rounding error may decide.

A Gaussian whose alpha is 1/255, or that leaves a pixel 1e-4 of its light, to within rounding, may be drawn here and
not there. Such pixels are found by moving both thresholds a little; they may differ by one faint Gaussian."""

from collections.abc import Callable
from unittest import mock

import torch
from torch import Tensor

from novelview.splatting import blend

ATOL = 1e-5  # of colour and alpha; of depths relative to the largest (specs/rasterizer.md section 5)
ALPHA_MARGIN, STOP_MARGIN = 1e-5, 1e-4  # relative; 1 - alpha loses up to three digits near alpha 0.999
FLIPPED = 0.02  # what one Gaussian at a threshold can add, relative to the largest value
UNDECIDED = 0.01  # share of the pixels


def undecided(render: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Return by name which values change when both thresholds move within rounding."""
    renders = []
    for sign in (-1, 1):
        moved = {
            "MIN_ALPHA": blend.MIN_ALPHA * (1 + sign * ALPHA_MARGIN),
            "STOP": blend.STOP * (1 + sign * STOP_MARGIN),
        }
        with torch.no_grad(), mock.patch.multiple(blend, **moved):
            renders.append(render())
    return {name: value != renders[1][name] for name, value in renders[0].items()}


def compare_images(render: Callable[[], dict[str, Tensor]], recorded: dict[str, Tensor]) -> None:
    """Compare every rendered quantity with the recorded one of its name."""
    open_values = undecided(render)
    with torch.no_grad():
        ours = render()
    for name, value in ours.items():
        difference, scale = (value - recorded[name]).abs(), max(1.0, recorded[name].abs().max().item())
        assert difference.shape == recorded[name].shape == value.shape, name
        assert open_values[name].double().mean() <= UNDECIDED, f"{name}: too many pixels at a threshold"
        decided = difference.masked_fill(open_values[name], 0).max().item()
        assert decided <= ATOL * scale, f"{name}: {decided} away"
        assert difference.max() <= FLIPPED * scale, name
