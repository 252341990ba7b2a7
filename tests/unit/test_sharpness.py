"""Sharpness without a network: what blur, noise, blocks and small shifts do to it, on rooms with sharp photographs."""

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from novelview.config.sources import RoomsSource
from novelview.errors import DataError
from novelview.evaluation.metrics import FLAT, PATCH, PURE_NOISE, _structure, sharpness
from novelview.scenes.procedural.layout import room_for
from novelview.scenes.procedural.rendering import render_frames

SOURCE = RoomsSource(texture_texels=0, texture_density=[0.3, 0.5], frames=4)


@pytest.fixture(scope="module")
def truth() -> Float[Tensor, "n 3 h w"]:
    rooms = [room_for(SOURCE, split, 0) for split in ("new", "seen")]
    frames = [render_frames(room, room.c2w[:1], 112, 112, 0, 2) for room in rooms]
    return torch.cat(frames).permute(0, 3, 1, 2).float() / 255


def blurred(images: Float[Tensor, "n 3 h w"], deviation: float) -> Float[Tensor, "n 3 h w"]:
    offsets = torch.arange(-8, 9).float()
    weights = torch.exp(-0.5 * (offsets / deviation) ** 2)
    weights = (weights / weights.sum()).view(1, 1, 1, 17)
    padded = F.pad(images.flatten(0, 1)[:, None], (8, 8, 8, 8), mode="reflect")
    return F.conv2d(F.conv2d(padded, weights), weights.mT).view_as(images)


def noisy(images: Tensor, deviation: float) -> Tensor:
    return images + deviation * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))


def test_a_copy_is_as_sharp_as_the_truth(truth: Tensor) -> None:
    torch.testing.assert_close(sharpness(truth, truth), torch.ones(2))
    assert sharpness(truth[None].expand(3, -1, -1, -1, -1), truth).shape == (3, 2)


def test_more_blur_is_less_sharp(truth: Tensor) -> None:
    found = torch.stack([sharpness(blurred(truth, deviation), truth) for deviation in (0.5, 1.0, 2.0, 4.0)])
    assert (found.diff(dim=0) < -0.05).all()
    assert (found[0] > 0.7).all() and (found[0] < 0.95).all()
    assert (found[2] < 0.5).all() and (found[3] < 0.35).all()


def test_noise_never_makes_a_picture_sharper(truth: Tensor) -> None:
    for base in (truth, blurred(truth, 2.0)):
        found = torch.stack([sharpness(noisy(base, deviation), truth) for deviation in (0.0, 0.01, 0.03, 0.1)])
        assert (found.diff(dim=0) < 0).all()
    assert (sharpness(noisy(truth.mean((-2, -1), keepdim=True).expand_as(truth), 0.2), truth) < 0.06).all()


def test_edges_of_the_renderer_alone_count_little(truth: Tensor) -> None:
    blocks = F.avg_pool2d(truth, 14).repeat_interleave(14, -1).repeat_interleave(14, -2)
    assert (sharpness(blocks, truth) < 0.55).all()
    across = torch.zeros(1, 3, 64, 64)
    across[..., ::8, :] = 1.0
    assert sharpness(across.mT.contiguous(), across) < 0.05 < 0.9 < sharpness(across.roll(2, -2), across)


def test_a_small_shift_does_not_matter_and_more_contrast_does(truth: Tensor) -> None:
    shifted = sharpness(truth.roll(1, -1), truth)
    assert (shifted > 0.85).all() and (shifted < 1.1).all()
    assert (sharpness((truth - 0.5) * 1.5 + 0.5, truth) > 1.05).all()


def test_flat_pictures_are_equally_sharp_and_one_colour_is_not() -> None:
    flat = torch.full((1, 3, 40, 40), 0.3)
    assert sharpness(flat + 0.2, flat) == pytest.approx(1.0)
    stripes = flat.clone()
    stripes[..., ::5] = 0.9
    assert sharpness(flat, stripes) < 0.01 < 0.99 < sharpness(stripes, stripes)
    assert sharpness(stripes, flat) == pytest.approx(1.0)  # nothing to compare with


def test_strong_edges_beside_a_nearly_flat_truth_count_twice_at_most(truth: Tensor) -> None:
    blocks = F.avg_pool2d(truth, 14).repeat_interleave(14, -1).repeat_interleave(14, -2)
    faint = 0.5 + 0.01 * (blurred(truth, 2.0) - 0.5)
    assert (sharpness(blocks, faint) < 2).all() and (sharpness(truth, faint) < 2).all()


def test_white_noise_passes_for_structure_in_about_one_patch_of_a_thousand() -> None:
    pictures = torch.rand(40, 1, 256, 256, generator=torch.Generator().manual_seed(1)).expand(-1, 3, -1, -1)
    quality, direction = _structure(0.3 + 0.2 * pictures)
    assert (quality > 0).float().mean() < 0.02 and quality.shape == (40, (255 // PATCH) ** 2)
    assert direction.norm(dim=-1).max() < 1.001 and 0.2 < PURE_NOISE < 0.3 and FLAT < 0.01


def test_pictures_smaller_than_a_patch_are_refused() -> None:
    with pytest.raises(DataError, match="sharpness of 20x8 images: both sides must be above 8"):
        sharpness(torch.zeros(1, 3, 8, 20), torch.zeros(1, 3, 8, 20))
