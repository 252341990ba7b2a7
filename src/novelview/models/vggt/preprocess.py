"""Pictures as VGGT takes them, and its lenses back in the pictures' own pixels (specs/vggt.md section 2)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from novelview.cameras.camera import opaque
from novelview.errors import DataError

SIDE, PATCH = 518, 14
WHITE = 1.0
MODES = ("crop", "pad")


@dataclass(frozen=True)
class Fit:
    """Where a picture's pixels went: x * scale_x - left, y * scale_y - top."""

    scale_x: float
    scale_y: float
    left: int
    top: int

    def original(self, intrinsics: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 4"]:
        """Return fx fy cx cy in the picture's own pixels."""
        fx, fy, cx, cy = intrinsics.unbind(-1)
        centre = [(cx + self.left) / self.scale_x, (cy + self.top) / self.scale_y]
        return torch.stack([fx / self.scale_x, fy / self.scale_y, *centre], dim=-1)


def preprocess(
    pictures: Sequence[Image.Image], mode: str = "crop", side: int | None = None
) -> tuple[Float[Tensor, "s 3 h w"], list[Fit]]:
    """Return pictures as [s 3 h w] in [0,1], sides multiples of 14, and where their pixels went.

    side: 518 pixels unless given. crop: `side` wide, the middle `side` rows of what is higher. pad: the longer side
    becomes `side`, white around it up to a square. Pictures that come out in different sizes get white borders up to
    the largest. Transparent pictures are put on white. Raises DataError for no pictures, ValueError for another mode.
    """
    if mode not in MODES:
        raise ValueError(f"mode {mode!r}: choose one of {', '.join(MODES)}")
    if not pictures:
        raise DataError("VGGT needs at least one picture")
    side = side or SIDE
    fitted = [_crop(picture, side) if mode == "crop" else _pad(picture, side) for picture in pictures]
    height, width = (max(image.shape[axis] for image, _ in fitted) for axis in (-2, -1))
    framed = [_bordered(image, fit, height, width) for image, fit in fitted]
    return torch.stack([image for image, _ in framed]), [fit for _, fit in framed]


def _crop(picture: Image.Image, side: int) -> tuple[Tensor, Fit]:
    image, fit = _resized(picture, side, _rounded(picture.height * side / picture.width))
    top = max(0, (image.shape[-2] - side) // 2)
    return image[:, top : top + side], Fit(fit.scale_x, fit.scale_y, 0, top)


def _pad(picture: Image.Image, side: int) -> tuple[Tensor, Fit]:
    wide = picture.width >= picture.height
    other = _rounded(side * (picture.height / picture.width if wide else picture.width / picture.height))
    image, fit = _resized(picture, *((side, other) if wide else (other, side)))
    return _bordered(image, fit, side, side)


def _rounded(length: float) -> int:
    return max(PATCH, round(length / PATCH) * PATCH)


def _resized(picture: Image.Image, width: int, height: int) -> tuple[Tensor, Fit]:
    small = opaque(picture, WHITE).resize((width, height), Image.Resampling.BICUBIC)
    image = torch.from_numpy(np.asarray(small, np.float32) / 255).permute(2, 0, 1)
    return image, Fit(width / picture.width, height / picture.height, 0, 0)


def _bordered(image: Tensor, fit: Fit, height: int, width: int) -> tuple[Tensor, Fit]:
    """Put white around an image, the odd line at the bottom and on the right."""
    down, across = height - image.shape[-2], width - image.shape[-1]
    left, top = across // 2, down // 2
    framed = pad(image, (left, across - left, top, down - top), value=WHITE)
    return framed, Fit(fit.scale_x, fit.scale_y, fit.left - left, fit.top - top)
