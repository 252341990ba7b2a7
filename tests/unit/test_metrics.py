"""Metrics: PSNR by hand, scikit-image's SSIM, and LPIPS only from a file that is there. Sharpness without a network:
what blur, noise, blocks and small shifts do to it, on rooms with sharp photographs."""

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import Float
from skimage.metrics import structural_similarity
from torch import Tensor

from novelview.config.sources import RoomsSource
from novelview.errors import DataError
from novelview.evaluation.metrics import FLAT, PATCH, PURE_NOISE, _structure, flip, open_lpips, psnr, sharpness, ssim
from novelview.scenes.procedural.layout import room_for
from novelview.scenes.procedural.rendering import render_frames

BLOCKS = ((0, 4), (4, 9), (9, 16), (16, 23), (23, 30))
WIDTHS = {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256, 17: 512, 19: 512, 21: 512, 24: 512, 26: 512, 28: 512}


def pictures(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(shape, generator=generator)
    return target + 0.2 * torch.randn(shape, generator=generator), target


@pytest.mark.parametrize("shape", [(1, 3, 11, 11), (2, 3, 24, 40), (2, 2, 3, 13, 30)])
def test_ssim_is_scikit_images(shape):
    pred, target = pictures(*shape)
    found = ssim(pred, target)
    assert found.shape == shape[:-3]
    settings = {"win_size": 11, "gaussian_weights": True, "channel_axis": 0, "data_range": 1.0}
    pairs = zip(pred.flatten(0, -4).double().numpy(), target.flatten(0, -4).double().numpy(), strict=True)
    expected = [structural_similarity(one, other, **settings) for one, other in pairs]
    torch.testing.assert_close(found.flatten().double(), torch.tensor(expected).double(), atol=1e-6, rtol=0)


def test_psnr_clamps_and_averages_within_an_image():
    target = torch.zeros(2, 3, 4, 4)
    pred = torch.stack([torch.full((3, 4, 4), 0.1), torch.full((3, 4, 4), -5.0)])
    torch.testing.assert_close(psnr(pred, target), torch.tensor([20.0, 100.0]))


def test_ssim_refuses_images_smaller_than_its_window():
    with pytest.raises(DataError, match="10x14 images"):
        ssim(torch.zeros(1, 3, 14, 10), torch.zeros(1, 3, 14, 10))


@pytest.fixture(scope="module")
def vgg16(tmp_path_factory):
    generator, inputs, state = torch.Generator().manual_seed(3), 3, {}
    for layer, width in WIDTHS.items():
        scale = (2 / (9 * inputs)) ** 0.5
        state[f"features.{layer}.weight"] = scale * torch.randn(width, inputs, 3, 3, generator=generator)
        state[f"features.{layer}.bias"] = 0.01 * torch.randn(width, generator=generator)
        inputs = width
    state["classifier.0.weight"] = torch.zeros(2, 2)
    path = tmp_path_factory.mktemp("pretrained") / "vgg16.pth"
    torch.save(state, path)
    return path


def by_hand(path, pred, target):
    """LPIPS as its paper defines it: unit-length features, squared difference, calibrated sum, spatial mean."""
    from novelview.losses.lpips import import_lpips

    package = import_lpips()
    state = torch.load(path, weights_only=True)
    lins = package.LPIPS(net="vgg", version="0.1", pnet_rand=True, verbose=False).lins
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    one, other = (((2 * image - 1) - shift.view(3, 1, 1)) / scale.view(3, 1, 1) for image in (pred, target))
    total = torch.zeros(len(pred))
    for (start, stop), lin in zip(BLOCKS, lins, strict=True):
        for layer in range(start, stop):
            one, other = (_layer(state, layer, image) for image in (one, other))
        units = [image / (image.square().sum(1, keepdim=True).sqrt() + 1e-10) for image in (one, other)]
        total = total + lin.model[-1]((units[0] - units[1]) ** 2).mean(dim=(1, 2, 3))
    return total.detach()


def _layer(state, layer, image):
    if layer in WIDTHS:
        return torch.conv2d(image, state[f"features.{layer}.weight"], state[f"features.{layer}.bias"], padding=1)
    return torch.max_pool2d(image, 2) if layer in (4, 9, 16, 23) else image.relu()


def test_lpips_from_a_local_backbone(vgg16):
    metric, reason = open_lpips(str(vgg16))
    assert metric is not None and reason is None
    pred, target = pictures(2, 3, 32, 32)
    found = metric(pred, target)
    torch.testing.assert_close(found, by_hand(vgg16, pred, target), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(metric(target, target), torch.zeros(2))
    torch.testing.assert_close(metric(pred[:, None], target[:, None]), found[:, None], atol=1e-6, rtol=1e-5)


def test_lpips_without_weights_gives_a_reason_not_a_number(tmp_path):
    missing = str(tmp_path / "vgg16.pth")
    assert open_lpips(missing) == (None, f"n/a (weights not downloaded: {missing})")
    assert open_lpips(None) == (None, "n/a (switched off: eval.lpips_weights=null)")


@pytest.mark.parametrize("content", [b"", b"<html>404</html>"])
def test_lpips_refuses_a_file_of_another_kind(tmp_path, content):
    path = tmp_path / "vgg16.pth"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"vgg16\.pth: not torchvision's VGG-16 weights"):
        open_lpips(str(path))


def test_lpips_refuses_weights_of_another_shape(vgg16, tmp_path):
    state = torch.load(vgg16, weights_only=True) | {"features.0.weight": torch.zeros(8, 3, 3, 3)}
    torch.save(state, tmp_path / "vgg16.pth")
    with pytest.raises(DataError, match="other shapes"):
        open_lpips(str(tmp_path / "vgg16.pth"))


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


def test_flip_is_that_of_its_package_and_orders_pictures() -> None:
    from flip_evaluator import evaluate as reference

    torch.manual_seed(0)
    target = torch.rand(2, 3, 20, 24)
    noisy = (target + 0.1 * torch.randn_like(target)).clamp(0, 1)
    found = flip(torch.stack([target, noisy]), torch.stack([target, target]))
    assert found.shape == (2, 2) and torch.equal(found[0], torch.zeros(2)) and (found[1] > 0.01).all()
    first, second = (one[0].permute(1, 2, 0).contiguous().numpy() for one in (target, noisy))
    assert float(found[1, 0]) == pytest.approx(reference(first, second, "LDR")[1], abs=1e-7)
