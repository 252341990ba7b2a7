"""Estimated cameras in the units of the given ones, and how far from them they end up."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from novelview.cameras.align import Similarity, fit_cameras, rotation_error_deg, translation_error
from novelview.errors import DataError
from novelview.scenes.estimation.estimate import Estimate

SIM3_FRAMES = 2  # fewer cameras fix no scale
SMALLEST = 1e-9


@dataclass(frozen=True)
class Placed:
    """Cameras [k 4 4] to be written, w2c, and the factor their lengths were multiplied by."""

    w2c: Float[Tensor, "k 4 4"]
    scale: float


def place(estimate: Estimate, given: Float[Tensor, "k 4 4"], align: str, length: float) -> Placed:
    """Move an estimate: sim3 to the given w2c of the same frames, scale to a path `length` long, none not at all.

    Raises DataError where fewer than two cameras, or cameras that all stand in one place, leave the scale open.
    """
    if align == "none":
        return Placed(estimate.w2c, 1.0)
    c2w = torch.linalg.inv(estimate.w2c)
    extent = torch.pdist(c2w[:, :3, 3]).max().item() if len(c2w) >= SIM3_FRAMES else 0.0
    if extent <= SMALLEST:
        raise DataError(f"{len(c2w)} cameras in one place leave the scale open; align=none keeps them as they are")
    if align == "scale":
        moved = c2w.clone()
        moved[:, :3, 3] *= length / extent
        return Placed(torch.linalg.inv(moved), length / extent)
    similarity = similarity_to(c2w, torch.linalg.inv(given))
    return Placed(torch.linalg.inv(similarity.cameras(c2w)), float(similarity.scale))


def similarity_to(estimated: Float[Tensor, "k 4 4"], given: Float[Tensor, "k 4 4"]) -> Similarity:
    """Return the Sim(3) between c2w matrices, orientations counting as much as centres.

    Video paths are nearly straight: by the centres alone their noise decides the turn about the line. Raises DataError
    where no scale above zero fits.
    """
    similarity = fit_cameras(estimated, given, orientation_weight=1.0)
    if not float(similarity.scale) > SMALLEST:
        raise DataError("the estimated cameras have nothing in common with the given ones: no Sim(3) fits them")
    return similarity


def errors(
    estimate: Estimate, given: Float[Tensor, "k 4 4"], intrinsics: Float[Tensor, "k 4"]
) -> dict[str, Any] | None:
    """Return how far an estimate is from the given cameras after Sim(3), frame by frame; None where none fits.

    rotation_deg, translation: of each frame, the latter in the data set's units; spread: root mean square distance of
    the given centres from their mean, the error of guessing that; relative_rotation_deg: of each frame's orientation
    relative to the first placed frame's, which no alignment changes; focal: mean ratio of focal lengths.
    """
    c2w, true = torch.linalg.inv(estimate.w2c), torch.linalg.inv(given)
    if len(c2w) < SIM3_FRAMES:
        return None
    try:
        aligned = similarity_to(c2w, true).cameras(c2w)
    except DataError:
        return None
    centres = true[:, :3, 3]
    turned = (torch.linalg.inv(cameras[:1]) @ cameras for cameras in (c2w, true))
    found = {
        "rotation_deg": rotation_error_deg(aligned, true),
        "translation": translation_error(aligned, true),
        "relative_rotation_deg": rotation_error_deg(*turned),
    }
    spread = (centres - centres.mean(dim=0)).square().sum(dim=1).mean().sqrt()
    focal = (estimate.intrinsics[:, :2] / intrinsics[:, :2]).mean()
    rounded = {name: [round(value, 6) for value in values.tolist()] for name, values in found.items()}
    return {**rounded, "spread": round(float(spread), 6), "focal": round(float(focal), 6)}
