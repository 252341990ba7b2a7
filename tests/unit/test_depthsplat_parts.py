"""DepthSplat's parts: plane sweep, neighbours, rotation of harmonics, windows. DepthSplat: the published sizes, part
by part."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from novelview.config.compose import compose
from novelview.config.models import GaussianConfig
from novelview.models.depthsplat.attention import add_positions, cut, join, other_views, shift_mask
from novelview.models.depthsplat.depth import coarse_candidates, cost_volume, fine_candidates
from novelview.models.depthsplat.gaussians import (
    FIXED,
    _head,
    harmonics_y,
    raw_channels,
    rotate_sh,
    scales_of,
    sh_mask,
    shift_of,
    wigner,
)
from novelview.models.registry import build
from novelview.splatting.gaussians import sh_basis


def _turned(seed: int) -> Tensor:
    q, r = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    q = q * r.diagonal().sign()
    return q * torch.linalg.det(q)


def _directions(count: int = 50) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(count, 3, dtype=torch.float64), dim=-1)


@pytest.mark.parametrize("degree", range(5))
def test_turned_harmonics_are_those_of_turned_directions(degree: int) -> None:
    torch.manual_seed(degree)
    rotation, directions = _turned(degree), _directions()
    blocks = wigner(rotation, degree)
    ours = harmonics_y(directions, degree) @ torch.block_diag(*blocks).mT
    torch.testing.assert_close(ours, harmonics_y(directions @ rotation.mT, degree), atol=1e-10, rtol=0)
    torch.testing.assert_close(
        torch.block_diag(*blocks) @ torch.block_diag(*blocks).mT, torch.eye(len(ours.mT)).double()
    )


def test_the_first_band_turns_as_vectors_do() -> None:
    rotation = _turned(3)
    torch.testing.assert_close(wigner(rotation, 1)[1], rotation)
    directions = _directions()
    ratio = harmonics_y(directions, 1)[:, 1:] / directions
    torch.testing.assert_close(ratio, torch.full_like(ratio, math.sqrt(3 / (4 * math.pi))))


def test_only_the_equivariant_rotation_keeps_colours_in_place() -> None:
    """The renderer reads the basis at (z, x, y) of a direction (specs/depthsplat.md section 9)."""
    torch.manual_seed(0)
    rotation, directions, harmonics = _turned(5), _directions(), torch.randn(3, 25, dtype=torch.float64)

    def seen(coefficients: Tensor, where: Tensor) -> Tensor:
        return coefficients @ sh_basis(where[:, [2, 0, 1]], 4).mT

    before = seen(harmonics, directions)
    errors = {
        mended: (seen(rotate_sh(harmonics, rotation, mended), directions @ rotation.mT) - before).abs().max().item()
        for mended in (True, False)
    }
    assert errors[True] < 1e-10
    assert errors[False] > 0.1 * before.std().item()


def _plane_features(c2w: Tensor, depth: float, size: tuple[int, int], focal: float) -> Tensor:
    """Return 48 channels, of one length everywhere, of a pattern on the plane z = depth seen along z."""
    generator = torch.Generator().manual_seed(0)
    frequency = torch.randn(24, 2, generator=generator) * 15 / depth
    y, x = torch.meshgrid(*(torch.arange(side, dtype=torch.float32) for side in size), indexing="ij")
    rays = torch.stack([(x - size[1] / 2) / focal, (y - size[0] / 2) / focal])
    places = rays * depth + c2w[:, :, :2, 3, None, None]
    angle = torch.einsum("bvchw,kc->bvkhw", places, frequency)
    return torch.cat([angle.sin(), angle.cos()], dim=2)


@pytest.mark.parametrize("number", [1, 3, 6, 10])
def test_the_plane_sweep_finds_a_plane(number: int) -> None:
    size, focal, near, far = (24, 64), 28.0, 1.0, 8.0
    candidates = coarse_candidates(near, far, 12, torch.zeros(1))
    depth = 1 / candidates[0, number].item()
    c2w = torch.eye(4).repeat(1, 3, 1, 1)
    c2w[0, :, 0, 3] = torch.tensor([0.0, 0.5, -0.4])
    c2w[0, :, 1, 3] = torch.tensor([0.0, 0.1, 0.15])
    lens = torch.tensor([[focal, 0, size[1] / 2], [0, focal, size[0] / 2], [0, 0, 1]]).expand(1, 3, 3, 3)
    features = _plane_features(c2w, depth, size, focal)
    cost = cost_volume(features, lens, c2w, candidates, other_views(c2w, 2))
    found = cost[0, :, 6:-6, 16:-16].argmax(dim=0)  # of the view in the middle, where the others see as well
    assert (found == number).all()


def test_finer_candidates_surround_the_prediction() -> None:
    near, far, coarse = 0.5, 100.0, 128
    step = (1 / near - 1 / far) / 127 / 2
    inverse = torch.tensor([0.5, 1 / far, 1 / near]).view(3, 1, 1, 1)
    found = fine_candidates(inverse, near, far, coarse, scale=1)[:, :, 0, 0]
    assert found.shape == (3, 32)
    torch.testing.assert_close(found[0], 0.5 + step * torch.arange(-16, 16))
    assert found.min() >= 1 / far * (1 - 1e-6) and found.max() <= 1 / near * (1 + 1e-6)
    assert (found.diff(dim=1) > 0).all()


def _in_a_row(places: list[float]) -> Tensor:
    c2w = torch.eye(4).repeat(1, len(places), 1, 1)
    c2w[0, :, 0, 3] = torch.tensor(places)
    return c2w


def test_few_views_meet_all_others_in_order() -> None:
    assert other_views(_in_a_row([0, 9, 1]), 2)[0].tolist() == [[1, 2], [0, 2], [0, 1]]
    assert other_views(_in_a_row([0, 1]), 2)[0].tolist() == [[1], [0]]


def test_many_views_meet_the_nearest() -> None:
    assert other_views(_in_a_row([0, 10, 1, 2]), 2)[0].tolist() == [[2, 3], [3, 2], [0, 3], [2, 0]]


def test_a_number_of_nearest_views_replaces_the_rule() -> None:
    assert other_views(_in_a_row([0, 9, 1]), 2, nearest=3)[0].tolist() == [[2, 1], [2, 0], [0, 1]]
    assert other_views(_in_a_row([0, 9, 1]), 2, nearest=2)[0].tolist() == [[2], [2], [0]]
    assert other_views(_in_a_row([0, 1]), 2, nearest=3)[0].tolist() == [[1], [0]]


def test_views_at_one_place_leave_themselves_out() -> None:
    others = other_views(_in_a_row([0, 0, 0, 0]), 2)[0]
    assert all(view not in row for view, row in enumerate(others.tolist()))


@pytest.mark.parametrize("splits", [1, 2, 4])
def test_windows_come_back_together(splits: int) -> None:
    x = torch.arange(2 * 8 * 12 * 3).view(2, 8, 12, 3)
    windows = cut(x, splits)
    assert windows.shape == (2 * splits**2, 8 // splits, 12 // splits, 3)
    assert torch.equal(join(windows, splits), x)


def test_positions_repeat_in_every_window() -> None:
    table = add_positions(torch.zeros(1, 8, 8, 12), 2)
    assert torch.equal(table[..., :4, :6], table[..., 4:, 6:])
    assert not torch.equal(table[..., :4, :6], add_positions(torch.zeros(1, 8, 8, 12), 1)[..., :4, :6])


def test_the_mask_parts_what_the_shift_joined() -> None:
    mask = shift_mask(8, 8, 2, torch.device("cpu"))
    assert (mask[0] == 0).all()  # a window of the interior holds neighbours alone
    assert set(mask[3].unique().tolist()) == {-100.0, 0.0}
    assert torch.equal(mask, mask.mT)


def test_offsets_by_mode() -> None:
    raw = torch.tensor([-50.0, 0.0, 50.0])
    assert shift_of(raw, GaussianConfig(offset_mode="ori")).tolist() == [-0.5, 0.0, 0.5]
    assert shift_of(raw, GaussianConfig(offset_mode="pixel", offset_factor=0.5)).tolist() == [-0.25, 0.0, 0.25]
    assert shift_of(raw, GaussianConfig(offset_mode="unconstrained", offset_factor=0.5)).tolist() == [-25.0, 0.0, 25.0]


def test_scales_are_bounded() -> None:
    raw = torch.tensor([-200.0, 4.0, 200.0])
    softplus = scales_of(raw, GaussianConfig())
    torch.testing.assert_close(softplus, torch.tensor([1e-10, math.log(2), 3.0]))
    torch.testing.assert_close(
        scales_of(raw, GaussianConfig(scale_activation="exp", scale_max=0.3)), torch.tensor([0.0, 0.3, 0.3])
    )


def test_higher_bands_start_smaller() -> None:
    torch.testing.assert_close(sh_mask(2), torch.tensor([1.0, *[0.025] * 3, *[0.00625] * 5]))


@pytest.mark.parametrize("confidence", ["none", "sigmoid"])
def test_the_head_starts_with_equal_scales_and_the_colour_of_the_image(confidence: str) -> None:
    cfg = GaussianConfig(confidence_activation=confidence, second_channel_bias=0.5)
    assert raw_channels(cfg) == 37 + (confidence != "none")
    raw = _head(cfg, 6)(torch.randn(1, 6, 4, 4))[0]
    first = 3 + (confidence != "none")
    assert (raw[first : first + 3] == 0).all() and (raw[first + FIXED :] == 0).all()
    assert (raw[first + 3 : first + FIXED] != 0).any()


SIZES = {  # encoder, without the vision transformer, depth predictor alone, keys (specs/depthsplat.md section 1)
    "depthsplat": (38_346_416, 16_290_224, 35_505_441, 567),
    "depthsplat_base": (120_747_896, 34_168_184, 111_165_145, 751),
    "depthsplat_base448": (120_877_016, 34_297_304, 111_229_753, 751),
    "depthsplat_large": (354_337_760, 49_970_144, 337_432_385, 919),
}
PARTS = {
    "depthsplat": {
        **{"backbone": 1_049_120, "transformer": 3_150_336, "mv_pyramid": 0, "pretrained": 22_056_192},
        **{"mono_pyramid": 0, "regressor": 6_453_504, "regressor_residual": 98_432, "depth_head": 590_208},
        **{"upsampler": 2_107_649},
    },
    "depthsplat_base448": {
        **{"backbone": 1_049_120, "transformer": 3_150_336, "mv_pyramid": 69_760, "pretrained": 86_579_712},
        **{"mono_pyramid": 2_507_520, "regressor": 9_010_176, "regressor_residual": 184_512, "depth_head": 700_960},
        **{"upsampler": 7_977_657},
    },
}
HEADS = {
    "depthsplat": {"feature_upsampler": 2_707_888, "gaussian_regressor": 76_736, "gaussian_head": 56_351},
    "depthsplat_base448": {"feature_upsampler": 9_485_088, "gaussian_regressor": 95_168, "gaussian_head": 67_007},
}


def _encoder(size: str, *changes: str) -> Any:
    words = ["model=depthsplat", "scale=paper", f"size=paper/{size}", "recipe=demo/lvsm_decoder_only/pretrain"]
    config = compose("train", [*words, "views.image_size=256", "views.image_width=256", *changes])
    with torch.device("meta"):
        model: Any = build(config.model.without_weights())
    return model.encoder


def _count(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


@pytest.mark.parametrize("size", SIZES)
def test_published_sizes(size: str) -> None:
    whole, without_vit, depth, keys = SIZES[size]
    encoder = _encoder(size)
    assert _count(encoder) == whole
    assert whole - _count(encoder.depth_predictor.pretrained) == without_vit
    assert _count(encoder.depth_predictor) == depth
    assert len(encoder.state_dict()) == keys
    for name, count in PARTS.get(size, {}).items():
        assert _count(getattr(encoder.depth_predictor, name)) == count, name
    for name, count in HEADS.get(size, {}).items():
        assert _count(getattr(encoder, name)) == count, name


def test_a_depth_model_is_the_depth_predictor_alone() -> None:
    encoder = _encoder("depthsplat_base448", "model.train_depth_only=true")
    assert _count(encoder) == SIZES["depthsplat_base448"][2]
    assert all(key.startswith("depth_predictor.") for key in encoder.state_dict())


def test_the_size_of_the_pm_loss_variant() -> None:
    encoder = _encoder("depthsplat_pm")
    assert round(_count(encoder) / 1e6, 1) == 118.1
    assert len(encoder.state_dict()) == 907
