"""The rasterizer against a dense sum over all pixels and Gaussians, its limits on memory, and broken input."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from novelview.errors import ConfigError, DataError
from novelview.splatting import blend
from novelview.splatting import project as tiles
from novelview.splatting import rasterize as interface
from novelview.splatting.gaussians import (
    Gaussians,
    covariance_of,
    quats_and_scales,
    sh_basis,
    sh_colors,
    viewer_harmonics,
)
from novelview.splatting.rasterize import DecoderQuirks, Splat, rasterize, render_gaussians

WIDTH, HEIGHT = 21, 18
BACKGROUND = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
K = torch.tensor([[[20.0, 0, 9.0], [0, 22.0, 10.0], [0, 0, 1]]])


def _scene(n: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Return Gaussians before, behind and beside a camera at the origin, with opacities from invisible to opaque."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(n, 3, generator=generator) * torch.tensor([1.0, 1.0, 1.5]) + torch.tensor([0, 0, 3.0])
    return {
        "means": means.to(dtype),
        "opacities": torch.rand(n, generator=generator).to(dtype),
        "quats": torch.randn(n, 4, generator=generator).to(dtype),
        "scales": (0.02 + 0.4 * torch.rand(n, 3, generator=generator)).to(dtype),
        "colors": torch.rand(n, 3, generator=generator).to(dtype),
    }


def _rasterize(scene: dict[str, Tensor], **options: Any) -> Splat:
    options = {"near": 0.2, "background": BACKGROUND.to(scene["means"])} | options
    dtype = scene["means"].dtype
    return rasterize(
        viewmats=torch.eye(4, dtype=dtype)[None], Ks=K.to(dtype), width=WIDTH, height=HEIGHT, **scene, **options
    )


def _dense(means: Tensor, opacities: Tensor, quats: Tensor, scales: Tensor, colors: Tensor) -> dict[str, Tensor]:
    """Blend every Gaussian into every pixel by automatic differentiation alone, in the maths of the fact sheet."""
    visible = means[:, 2] > 0.2
    means, opacities, colors = means[visible], opacities[visible], colors[visible]
    order = torch.argsort(means[:, 2], stable=True)
    x, y, z = means[order].unbind(-1)
    fx, fy, cx, cy = K.to(means)[0, [0, 1, 0, 1], [0, 1, 2, 2]]
    slope_x = (x / z).clamp(-(cx + 0.15 * WIDTH) / fx, (WIDTH - cx + 0.15 * WIDTH) / fx)
    slope_y = (y / z).clamp(-(cy + 0.15 * HEIGHT) / fy, (HEIGHT - cy + 0.15 * HEIGHT) / fy)
    zero = torch.zeros_like(z)
    jacobian = torch.stack([fx / z, zero, -fx * slope_x / z, zero, fy / z, -fy * slope_y / z], dim=-1).view(-1, 2, 3)
    covariance = jacobian @ covariance_of(quats[visible][order], scales[visible][order]) @ jacobian.mT
    precision = torch.linalg.inv(covariance + 0.3 * torch.eye(2, dtype=z.dtype))
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    pixels = torch.stack([columns, rows], dim=-1).flatten(0, 1).to(z.dtype) + 0.5
    offset = pixels[:, None] - torch.stack([fx * x / z + cx, fy * y / z + cy], dim=-1)
    sigma = 0.5 * torch.einsum("pki,kij,pkj->pk", offset, precision, offset)
    alpha = torch.clamp(opacities[order] * torch.exp(-sigma), max=0.99)
    alpha = torch.where(alpha < 1 / 255, 0, alpha)
    left = torch.cumprod(1 - alpha, dim=1)
    arriving = torch.cat([torch.ones_like(left[:, :1]), left[:, :-1]], dim=1)
    weights = torch.where(left > 1e-4, alpha * arriving, 0)
    total = weights.sum(dim=1, keepdim=True)
    color = weights @ colors[order] + (1 - total) * BACKGROUND.to(z)
    return {
        "color": color.mT.reshape(1, 3, HEIGHT, WIDTH),
        "alpha": total.view(1, HEIGHT, WIDTH),
        "depth": (weights @ z[:, None]).view(1, HEIGHT, WIDTH),
    }


def _gradients(splat: dict[str, Tensor], scene: dict[str, Tensor]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    loss = sum((value * torch.randn(value.shape, generator=generator)).sum() for value in splat.values())
    assert isinstance(loss, Tensor)
    return list(torch.autograd.grad(loss, list(scene.values())))


@pytest.mark.parametrize("n", [1, 40, 400])
def test_images_and_gradients_are_those_of_the_dense_sum(n: int) -> None:
    scene = {name: value.requires_grad_() for name, value in _scene(n, dtype=torch.float64).items()}
    ours, theirs = vars(_rasterize(scene)), _dense(**scene)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-9)
    for ours_grad, theirs_grad in zip(_gradients(ours, scene), _gradients(theirs, scene), strict=True):
        torch.testing.assert_close(ours_grad, theirs_grad, rtol=1e-6, atol=1e-8)


def test_bounds_on_memory_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = {name: value.requires_grad_() for name, value in _scene(300).items()}
    whole = vars(_rasterize(scene))
    expected = _gradients(whole, scene)
    largest = _record_largest(monkeypatch)
    monkeypatch.setattr(blend, "AHEAD", 3)
    monkeypatch.setattr(blend, "PAIRS", 2 * 3 * tiles.TILE**2)
    monkeypatch.setattr(tiles, "MEMBERS", 50)
    bounded = vars(_rasterize(scene))
    for name, value in whole.items():
        torch.testing.assert_close(bounded[name], value, rtol=0, atol=1e-5)
    for ours, theirs in zip(_gradients(bounded, scene), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    assert largest and max(largest) <= 2 * 3 * tiles.TILE**2


def _record_largest(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that receives the number of pairs of every evaluation."""
    sizes, evaluate = [], blend._alphas

    def record(*given: Any) -> Any:
        found = evaluate(*given)
        sizes.append(found[0].numel())
        return found

    monkeypatch.setattr(blend, "_alphas", record)
    return sizes


def test_equal_depths_keep_their_order() -> None:
    scene = _scene(2)
    scene["means"][:] = torch.tensor([0.0, 0.0, 2.0])
    scene["opacities"][:], scene["scales"][:] = 1.0, 3.0
    scene["colors"][:] = torch.eye(3)[:2]
    color = _rasterize(scene).color[0, :, HEIGHT // 2, WIDTH // 2]
    # the second would leave 1e-4 of the light: the pixel stops before it
    torch.testing.assert_close(color[:2], torch.tensor([0.99 + 0.01 * 0.1, 0.01 * 0.5]), atol=1e-5, rtol=0)


def test_what_lies_behind_stopped_pixels_is_not_evaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = _scene(4000)
    scene["means"] = torch.tensor([0.0, 0.0, 2.0]) + 0.01 * torch.arange(4000)[:, None] * torch.tensor([0, 0, 1.0])
    scene["opacities"][:], scene["scales"][:] = 0.9, 10.0
    monkeypatch.setattr(tiles, "MEMBERS", 2000)
    sizes = _record_largest(monkeypatch)
    assert torch.allclose(_rasterize(scene).alpha, torch.tensor(0.9999), atol=1e-3)
    assert sum(sizes) < 2 * blend.AHEAD * (WIDTH + tiles.TILE) * (HEIGHT + tiles.TILE)


BROKEN = {
    "behind": lambda scene: scene["means"][:, 2].sub_(50),
    "at the camera": lambda scene: scene["means"].zero_(),
    "zero scale": lambda scene: scene["scales"].zero_(),
    "zero quaternion": lambda scene: scene["quats"].zero_(),
    "flat": lambda scene: scene["scales"][:, :2].zero_(),
    "huge scale": lambda scene: scene["scales"].mul_(1e6),
    "overflowing scale": lambda scene: scene["scales"].mul_(1e19),
    "mixed scale": lambda scene: scene["scales"][:, 0].mul_(1e12),
    "far away": lambda scene: scene["means"].mul_(1e15),
    "invisible": lambda scene: scene["opacities"].zero_(),
    "opaque": lambda scene: scene["opacities"].fill_(1),
    "just before the plane": lambda scene: scene["means"][:, 2].fill_(0.2000001),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("three_sigma", [False, True])
def test_extreme_gaussians_give_finite_images_and_gradients(name: str, three_sigma: bool) -> None:
    scene = _scene(50)
    BROKEN[name](scene)
    if name == "overflowing scale":
        scene["scales"].clamp_(max=1.5e19)  # squared just within float32
    scene = {key: value.requires_grad_() for key, value in scene.items()}
    splat = vars(_rasterize(scene, three_sigma=three_sigma))
    values = [*splat.values(), *_gradients(splat, scene)]
    assert all(torch.isfinite(value).all() for value in values)
    assert (splat["alpha"] >= 0).all() and (splat["alpha"] <= 1).all()
    if name in ("behind", "at the camera", "invisible", "far away"):
        assert not splat["alpha"].any()
    if name in ("huge scale", "opaque"):
        assert splat["alpha"].mean() > 0.5


@pytest.mark.parametrize("name", ["means", "opacities", "quats", "scales", "colors"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_one_error(name: str, value: float) -> None:
    scene = _scene(5)
    scene[name].view(-1)[2] = value
    with pytest.raises(DataError, match="not finite"):
        _rasterize(scene)


@pytest.mark.parametrize("name", ["means", "opacities", "quats", "scales", "colors"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_in_a_training_they_make_a_loss_that_every_rank_skips(name: str, value: float) -> None:
    scene = _scene(5)
    scene[name].view(-1)[2] = value
    splat = _rasterize({key: one.requires_grad_() for key, one in scene.items()})
    assert splat.color.isnan().all() and splat.color.shape == (1, 3, HEIGHT, WIDTH)


def test_no_gaussians_show_the_background() -> None:
    scene = {name: value.requires_grad_() for name, value in _scene(0).items()}
    splat = _rasterize(scene)
    torch.testing.assert_close(splat.color[0, :, 0, 0], torch.tensor([0.1, 0.5, 0.9]))
    assert splat.color.shape == (1, 3, HEIGHT, WIDTH) and not splat.alpha.any() and not splat.depth.any()
    splat.color.sum().backward()
    assert scene["means"].grad is not None


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"colors": None}, DataError, "needs colors"),
        ({"sh": torch.zeros(4, 4, 3), "colors": None}, DataError, "sh of shape"),
        ({"colors": torch.zeros(4, 3)}, DataError, "must have the shapes"),
        ({"colors": torch.zeros(2, 5, 3)}, DataError, "must have the shapes"),
        ({"scales": None}, DataError, "covariances, or quats and scales"),
        ({"opacities": torch.zeros(5, 1)}, DataError, "must have the shapes"),
        ({"near": 0.0}, ConfigError, "near"),
        ({"near": 2.0, "far": 1.0}, ConfigError, "far"),
        ({"backend": "gsplat"}, ConfigError, "CUDA only"),
    ],
)
def test_wrong_input_is_one_error(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        _rasterize(
            **{"scene": {**_scene(5), **{k: v for k, v in change.items() if k in ("colors", "scales", "opacities")}}},
            **{k: v for k, v in change.items() if k not in ("colors", "scales", "opacities")},
        )
    assert "\n" not in str(caught.value)


def test_gsplat_without_its_kernels_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interface, "gsplat_is_built", lambda: False)
    with pytest.raises(ConfigError, match="compiled kernels"):
        interface.require_gsplat(torch.device("cuda"))


@pytest.mark.parametrize("built", ["nothing", "a wheel with kernels", "kernels built at first use"])
def test_gsplat_counts_where_its_kernels_are_compiled(built: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package, extensions = tmp_path / "packages/gsplat", tmp_path / "extensions"
    for folder in (package, extensions / "py311_cu128/gsplat_cuda"):
        folder.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('looking is not importing')")
    (extensions / "py311_cu128/gsplat_cuda/build.ninja").touch()
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setenv(interface.EXTENSIONS, str(extensions))
    if built == "a wheel with kernels":
        (package / "csrc.so").touch()
    elif built != "nothing":
        (extensions / "py311_cu128/gsplat_cuda/gsplat_cuda.so").touch()
    assert interface.gsplat_is_built() == (built != "nothing")


def test_gsplat_is_asked_for_rgb_and_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    """The call alone: gsplat's kernels need a GPU."""
    asked = {}

    class Package:
        @staticmethod
        def rasterization(*given: Any, **options: Any) -> tuple[Tensor, Tensor, dict]:
            asked.update(options, colors=given[4], quats=given[1])
            return torch.full((1, HEIGHT, WIDTH, 4), 0.25), torch.full((1, HEIGHT, WIDTH, 1), 0.5), {}

    monkeypatch.setattr(interface.importlib, "import_module", lambda name: {"gsplat": Package}[name])
    monkeypatch.setattr(interface, "require_gsplat", lambda device: None)
    splat = _rasterize(_scene(5), backend="gsplat")
    assert asked["render_mode"] == "RGB+D" and asked["sh_degree"] is None and asked["rasterize_mode"] == "classic"
    assert asked["covars"].shape == (5, 3, 3) and asked["colors"].shape == (1, 5, 3) and asked["quats"] is None
    torch.testing.assert_close(splat.color[0, :, 0, 0], 0.25 + 0.5 * torch.tensor([0.1, 0.5, 0.9]))
    torch.testing.assert_close(splat.depth, torch.full((1, HEIGHT, WIDTH), 0.25))


def test_the_choice_of_backend_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    interface._automatic.cache_clear()
    with caplog.at_level(logging.INFO, logger="novelview"):
        _rasterize(_scene(3))
        _rasterize(_scene(3))
    assert [record.getMessage() for record in caplog.records] == ["rasterizer: backend torch on cpu"]


def test_autocast_changes_nothing() -> None:
    scene = {name: value.requires_grad_() for name, value in _scene(30).items()}
    outside = vars(_rasterize(scene))
    expected = _gradients(outside, scene)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = vars(_rasterize(scene))
    gradients = _gradients(inside, scene)
    for ours, theirs in zip([*inside.values(), *gradients], [*outside.values(), *expected], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_the_basis_is_orthonormal() -> None:
    z = torch.linspace(-1, 1, 2001, dtype=torch.float64)
    z = (z[1:] + z[:-1]) / 2
    angle = torch.arange(64, dtype=torch.float64) * (2 * torch.pi / 64)
    ring = torch.sqrt(1 - z**2)[:, None]
    points = torch.stack([ring * angle.cos(), ring * angle.sin(), z[:, None].expand(-1, 64)], dim=-1).flatten(0, 1)
    basis = sh_basis(points, 4)
    gram = basis.mT @ basis * (4 * torch.pi / len(points))
    torch.testing.assert_close(gram, torch.eye(25, dtype=torch.float64), rtol=0, atol=1e-5)


@pytest.mark.parametrize("k", [1, 4, 9, 16, 25])
def test_harmonics_for_viewers_show_the_same_colours(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    harmonics = 0.3 * torch.randn(6, 3, k, generator=generator)
    directions = torch.randn(6, 3, generator=generator)
    theirs = sh_colors(viewer_harmonics(harmonics, "zxy"), directions)
    torch.testing.assert_close(theirs, sh_colors(harmonics, directions, "zxy"), rtol=0, atol=1e-5)


def test_covariances_come_apart_and_together() -> None:
    scene = _scene(20, dtype=torch.float64)
    covariances = covariance_of(scene["quats"], scene["scales"])
    quats, scales = quats_and_scales(covariances)
    torch.testing.assert_close(covariance_of(quats, scales), covariances)
    torch.testing.assert_close(scales, scene["scales"].sort(dim=-1).values)


def _batch(scenes: int) -> tuple[Gaussians, Tensor, Tensor]:
    made = [_scene(60, seed) for seed in range(scenes)]
    harmonics = 0.3 * torch.randn(scenes, 60, 3, 9, generator=torch.Generator().manual_seed(9))
    covariances = torch.stack([covariance_of(scene["quats"], scene["scales"]) for scene in made])
    means, opacities = (torch.stack([scene[name] for scene in made]) for name in ("means", "opacities"))
    c2w = torch.eye(4).repeat(scenes, 2, 1, 1)
    c2w[:, 1, 0, 3] = 0.4
    intrinsics = torch.tensor([20.0, 22.0, 10.5, 9.0]).expand(scenes, 2, 4)
    return Gaussians(means, covariances, opacities, harmonics), c2w, intrinsics


def test_a_batch_renders_as_its_scenes() -> None:
    gaussians, c2w, intrinsics = _batch(2)
    together = render_gaussians(gaussians, c2w, intrinsics, HEIGHT, WIDTH, 0.5, 100.0)
    assert together.images.shape == (2, 2, 3, HEIGHT, WIDTH) and together.depth.shape == (2, 2, HEIGHT, WIDTH)
    for scene in range(2):
        alone = render_gaussians(
            gaussians.take(scene), c2w[scene : scene + 1], intrinsics[scene : scene + 1], HEIGHT, WIDTH, 0.5, 100.0
        )
        torch.testing.assert_close(alone.images[0], together.images[scene])
    with pytest.raises(DataError, match="1 scenes of Gaussians for 2"):
        render_gaussians(gaussians.take(-1), c2w, intrinsics, HEIGHT, WIDTH, 0.5, 100.0)


def test_near_scales_the_scene_and_moves_the_near_plane_only() -> None:
    gaussians, c2w, intrinsics = _batch(1)
    one, two = (render_gaussians(gaussians, c2w, intrinsics, HEIGHT, WIDTH, near, 100.0) for near in (0.01, 0.02))
    torch.testing.assert_close(one.images, two.images, rtol=0, atol=1e-4)
    torch.testing.assert_close(one.depth, two.depth, rtol=0, atol=1e-3)
    hidden = render_gaussians(gaussians, c2w, intrinsics, HEIGHT, WIDTH, 60.0, 100.0)
    assert not hidden.alpha.any()


def test_quirks_of_the_decoder_change_what_they_name() -> None:
    gaussians, c2w, intrinsics = _batch(1)
    plain = render_gaussians(gaussians, c2w, intrinsics, HEIGHT, WIDTH, 0.5, 100.0).images
    moved = intrinsics + torch.tensor([0, 0, 2.0, 0])
    options = {"sh_axes": "xyz", "max_sh_degree": 0, "three_sigma": False}
    for name, value in options.items():
        other = render_gaussians(
            gaussians, c2w, intrinsics, HEIGHT, WIDTH, 0.5, 100.0, quirks=replace(DecoderQuirks(), **{name: value})
        )
        assert (other.images - plain).abs().max() > 1e-5, name
    free = replace(DecoderQuirks(), central_principal_point=False)
    shifted = [
        render_gaussians(gaussians, c2w, moved, HEIGHT, WIDTH, 0.5, 100.0, quirks=quirks).images
        for quirks in (DecoderQuirks(), free)
    ]
    torch.testing.assert_close(shifted[1][..., 2:], plain[..., :-2], rtol=0, atol=0.2)
    assert (shifted[0] - plain).abs().mean() < (shifted[1] - plain).abs().mean()
