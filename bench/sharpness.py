"""What blur, noise, blocks and shifts do to the sharpness of pictures: `python bench/sharpness.py`.

Two frames each of three rooms with held-out photographs (conf/source/rooms_mini.yaml), at 112 and 252 px; a row is what
was done to them and the smallest and largest sharpness found."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from common import append
from torch import Tensor

from novelview.config.compose import compose
from novelview.evaluation.metrics import sharpness
from novelview.scenes.procedural.layout import room_for
from novelview.scenes.procedural.rendering import render_frames

SIDES = (112, 252)
ROOMS = 3
SOURCE = compose("download", ["source=rooms_mini"]).source


def pictures(side: int) -> Tensor:
    """Return the frames the changes are applied to, [n 3 side side] in [0,1]."""
    rooms = [room_for(SOURCE, "new", number) for number in range(ROOMS)]
    frames = [
        render_frames(room, room.c2w[:2], side, side, SOURCE.texture_texels, SOURCE.supersample) for room in rooms
    ]
    return torch.cat(frames).permute(0, 3, 1, 2).float() / 255


def blurred(images: Tensor, deviation: float) -> Tensor:
    """Return images under a Gaussian of `deviation` pixels."""
    offsets = torch.arange(-16, 17).float()
    weights = torch.exp(-0.5 * (offsets / deviation) ** 2)
    weights = (weights / weights.sum()).view(1, 1, 1, -1)
    padded = F.pad(images.flatten(0, 1)[:, None], (16, 16, 16, 16), mode="reflect")
    return F.conv2d(F.conv2d(padded, weights), weights.mT).view_as(images)


def noisy(images: Tensor, deviation: float) -> Tensor:
    """Return images with white noise."""
    return images + deviation * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))


def blocks(images: Tensor, side: int) -> Tensor:
    """Return images of one colour a block of `side` pixels."""
    return F.avg_pool2d(images, side).repeat_interleave(side, -1).repeat_interleave(side, -2)


def one_colour(images: Tensor) -> Tensor:
    """Return every image's mean colour."""
    return images.mean((-2, -1), keepdim=True).expand_as(images)


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda images: images,
    "shifted by 1 pixel": lambda images: images.roll(1, -1),
    "next frame of the room": lambda images: images.view(-1, 2, *images.shape[1:]).flip(1).flatten(0, 1),
    **{f"blurred by {size:g} pixels": lambda images, size=size: blurred(images, size) for size in (0.5, 1, 2, 4)},
    "mean with a copy shifted by 5 pixels": lambda images: (images + images.roll(5, -1)) / 2,
    **{f"noise of {size:g}": lambda images, size=size: noisy(images, size) for size in (0.01, 0.03, 0.1, 0.3)},
    "blurred by 2 pixels, then noise of 0.03": lambda images: noisy(blurred(images, 2), 0.03),
    "noise alone": lambda images: noisy(one_colour(images), 0.2),
    "one colour": one_colour,
    **{f"blocks of {size} pixels": lambda images, size=size: blocks(images, size) for size in (7, 14)},
    "contrast times 1.5": lambda images: (images - 0.5) * 1.5 + 0.5,
}


def main() -> None:
    """Score every change at both sizes; append and print the rows."""
    truth = {side: pictures(side) for side in SIDES}
    rows = []
    for name, change in CHANGES.items():
        found = torch.cat([sharpness(change(images), images) for images in truth.values()])
        rows.append(
            {"change": name, "pictures": len(found), "lowest": f"{found.min():.3f}", "highest": f"{found.max():.3f}"}
        )
    append("sharpness", rows)


if __name__ == "__main__":
    main()
