"""Cameras as relative encodings in LVSM and UP-LVSM; what makes training on a processor fast, exact all the same."""

import dataclasses
from pathlib import Path

import pytest
import torch
from tiny_models import config, model_of, views
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from novelview.cameras.poses import quat_to_mat
from novelview.cameras.relative import relative_cameras
from novelview.config import compose as composing
from novelview.config.compose import compose
from novelview.config.digest import digest
from novelview.config.schema import ViewsConfig
from novelview.errors import ConfigError
from novelview.evaluation.encoded_scene import Encoded, Facts, load_scene, render_cameras, save_scene
from novelview.models.layers import RMSNorm, attend
from novelview.models.registry import build, load_weights, save_weights
from novelview.models.render import PosedTokens, ViewModel
from novelview.models.uplvsm import RelativeUPLVSM
from novelview.scenes.batch import Views
from novelview.training.watch import product_rate, speed_line

POSED = ("lvsm_decoder_only", "lvsm_efficient")


def moved(cameras: Views) -> Views:
    """Return views in a world that was turned and shifted."""
    motion = torch.eye(4)
    motion[:3, :3] = quat_to_mat(torch.tensor([0.3, -0.2, 0.5, 0.8]))
    motion[:3, 3] = torch.tensor([0.7, -1.2, 0.4])
    return dataclasses.replace(cameras, c2w=motion @ cameras.c2w)


def alive(model: ViewModel) -> ViewModel:
    """Give every parameter values that change what comes out."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model


@pytest.mark.parametrize("name", POSED)
@torch.no_grad()
def test_relative_cameras_do_not_see_where_the_world_begins(name: str) -> None:
    context, target = views(2, 1), views(3, 2)
    for cameras, same in (("prope", True), ("plucker", False), ("both", False)):
        model = alive(model_of(name, cameras=cameras))
        before, after = model(context, target).images, model(moved(context), moved(target)).images
        assert torch.allclose(before, after, atol=1e-4) == same, cameras
        turned = dataclasses.replace(target, c2w=moved(target).c2w)
        assert not torch.allclose(before, model(context, turned).images, atol=1e-3)


@pytest.mark.parametrize("name", POSED)
def test_they_add_no_parameter_and_published_weights_fit(name: str) -> None:
    shapes = [{key: value.shape for key, value in model_of(name, cameras=one).state_dict().items()} for one in
              ("plucker", "prope", "both")]  # fmt: skip
    assert shapes[0] == shapes[1] == shapes[2]


@torch.no_grad()
def test_every_target_is_alone_and_context_cameras_are_read() -> None:
    model, context, target = alive(model_of("lvsm_decoder_only", cameras="prope")), views(3, 1), views(2, 2)
    both = model(context, target).images
    assert torch.allclose(model(context, target.span(1, 2)).images, both[:, 1:], atol=1e-5)
    other = dataclasses.replace(context, c2w=torch.cat([moved(context).c2w[:, :1], context.c2w[:, 1:]], dim=1))
    assert not torch.allclose(model(other, target).images, both, atol=1e-3)
    assert isinstance(model.encode(context), PosedTokens)


@torch.no_grad()
def test_a_saved_scene_renders_the_same(tmp_path: Path) -> None:
    weights, context, target = tmp_path / "model.safetensors", views(2, 1), views(2, 2)
    cfg = config("lvsm_decoder_only", cameras="both")
    model = alive(build(cfg)).eval()
    save_weights(weights, model, {"model": dataclasses.asdict(cfg), "views": dataclasses.asdict(ViewsConfig())})
    model = load_weights(weights)[0]
    assert context.images is not None
    one = dataclasses.replace(
        context, images=context.images[:1], c2w=context.c2w[:1], intrinsics=context.intrinsics[:1]
    )
    height, width = context.images.shape[-2:]
    facts = Facts(**Facts.of(weights), scene="room", frames=[0, 1], height=height, width=width)
    encoded = Encoded(model.encode(one), one.c2w[0], one.intrinsics[0], facts)
    save_scene(tmp_path / "scene.safetensors", encoded)
    again = load_scene(tmp_path / "scene.safetensors", weights, torch.device("cpu"))
    expected = model.render_path(one, target.c2w[:1], target.intrinsics[:1])[0]
    assert torch.equal(render_cameras(model, again, target.c2w[0], target.intrinsics[0]), expected)


def unposed(**changes: object) -> RelativeUPLVSM:
    model = alive(model_of("uplvsm", cameras="both", **changes))
    assert isinstance(model, RelativeUPLVSM)
    return model


@torch.no_grad()
def test_the_unposed_model_reads_no_pose_and_its_first_camera_is_the_identity() -> None:
    model, context, target = unposed(), views(3, 1), views(2, 2)
    found = model(context, target)
    blind = [dataclasses.replace(one, c2w=torch.full_like(one.c2w, torch.nan)) for one in (context, target)]
    assert torch.equal(model(*blind).images, found.images)
    assert target.images is not None and context.images is not None
    path = model.estimate_poses(context, target.images)
    assert torch.equal(path, found.extras["pose_c2w"])
    assert torch.allclose(model.render_path(context, path, target.intrinsics), found.images, atol=1e-5)
    rotation = path[..., :3, :3]
    assert torch.allclose(rotation @ rotation.mT, torch.eye(3).expand_as(rotation), atol=1e-5)
    single = context.span(0, 1)
    c2w = torch.eye(4).expand(len(single.c2w), 1, 4, 4)
    assert torch.equal(
        model.encode(single).keys[0], model.renderer.encode(dataclasses.replace(single, c2w=c2w)).keys[0]
    )


def test_photometric_gradients_reach_every_weight_of_the_unposed_model() -> None:
    model, context, target = unposed(), views(3, 1), views(2, 2)
    (model(context, target).images - 0.3).square().mean().backward()
    dead = [name for name, one in model.named_parameters() if one.grad is None or not one.grad.abs().sum() > 0]
    assert not dead


def test_a_free_code_is_no_camera_and_says_so() -> None:
    model, context, target = alive(model_of("uplvsm", free_code=True)), views(2, 1), views(2, 2)
    found = model(context, target)
    assert found.images.shape[1] == 2 and "code_tokenizer.weight" in model.state_dict()
    path = found.extras["pose_c2w"]
    assert torch.allclose(model.render_path(context, path, target.intrinsics), found.images, atol=1e-5)
    assert torch.equal(path[..., 0, :4], found.extras["pose_enc"][..., :4])
    with pytest.raises(ConfigError, match=r"model\.free_code=true: no camera, so model\.cameras=prope has none"):
        compose("train", ["model=uplvsm", "model.free_code=true", "model.cameras=prope", "io.packed=x"])


@pytest.mark.parametrize("model", ["lvsm_decoder_only", "lvsm_efficient", "uplvsm"])
def test_a_head_that_cannot_be_turned_is_one_line(model: str) -> None:
    words = [f"model={model}", "model.transformer.d=120", "model.transformer.d_head=12", "model.cameras=prope"]
    words += ["model.dino.embed_dim=120"] if model == "uplvsm" else []
    with pytest.raises(ConfigError, match=r"model\.transformer\.d_head=12: model\.cameras=prope needs a multiple of 8"):
        compose("train", [*words, "io.packed=x"])


def naive(x: Tensor, matrix: Tensor, angles: tuple[Tensor, Tensor], sign: float) -> Tensor:
    """Transform tokens one by one, as specs/prope.md writes it down."""
    cos, sin = angles
    count, half, out = cos.shape[-1], x.shape[-1] // 2, x.clone()
    patches = len(cos)
    for token in range(x.shape[2]):
        view, patch = divmod(token, patches)
        for group in range(half // 4):
            part = slice(4 * group, 4 * group + 4)
            out[:, :, token, part] = torch.einsum("bij,bhj->bhi", matrix[:, view], x[:, :, token, part])
        for axis in range(2):
            first = half + 2 * count * axis
            u, v = x[:, :, token, first : first + count], x[:, :, token, first + count : first + 2 * count]
            c, s = cos[patch, axis], sign * sin[patch, axis]
            out[:, :, token, first : first + count] = c * u + s * v
            out[:, :, token, first + count : first + 2 * count] = c * v - s * u
    return out


@pytest.mark.parametrize("layout", ["heads first", "tokens first"])
def test_the_products_are_the_formula_and_so_are_their_gradients(layout: str) -> None:
    torch.manual_seed(0)
    cameras = views(2, 1)
    place = relative_cameras(cameras.c2w.double(), cameras.intrinsics.double(), (28, 42), 14, 24)
    x = torch.randn(len(cameras.c2w), 3, 2 * 6, 24, dtype=torch.float64)
    x = x if layout == "heads first" else x.transpose(1, 2).contiguous().transpose(1, 2)
    x.requires_grad_()
    angles = place.cos.double(), place.sin.double()
    assert place.project is not None and place.unproject is not None
    pairs = [
        (place.query, place.project.mT, 1.0),
        (place.key, place.unproject, 1.0),
        (place.output, place.project, -1.0),
    ]
    for function, matrix, sign in pairs:
        ours, theirs = function(x), naive(x, matrix, angles, sign)
        assert torch.allclose(ours, theirs, atol=1e-12)
        weights = torch.randn_like(ours)
        one, other = (torch.autograd.grad((out * weights).sum(), x)[0] for out in (ours, theirs))
        assert torch.allclose(one, other, atol=1e-12)


def test_the_written_out_gradient_of_the_norm_is_the_gradient() -> None:
    torch.manual_seed(1)
    norm = RMSNorm(6, 1e-3).double()
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, w: torch.func.functional_call(norm, {"weight": w}, (x,)), (x, norm.weight)
    )
    single = RMSNorm(48, 1e-5)
    wide = torch.randn(7, 48)
    expected = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5) * single.weight
    assert torch.equal(single(wide), expected)


def test_attention_in_bfloat16_is_that_of_float32_within_its_rounding() -> None:
    torch.manual_seed(2)
    q, k, v = (torch.randn(2, 3, 17, 16) for _ in range(3))
    exact = [one.clone().requires_grad_() for one in (q, k, v)]
    rounded = [one.bfloat16().requires_grad_() for one in (q, k, v)]
    expected = scaled_dot_product_attention(*exact)
    found = attend(*rounded)
    assert found.dtype == torch.bfloat16
    assert torch.allclose(found.float(), expected.transpose(1, 2).flatten(2), atol=0.03)
    weights = torch.randn_like(expected)
    (expected * weights).sum().backward()
    (found.float() * weights.transpose(1, 2).flatten(2)).sum().backward()
    for one, other in zip(exact, rounded, strict=True):
        assert one.grad is not None and other.grad is not None
        assert (one.grad - other.grad.float()).norm() < 0.02 * one.grad.norm()


@pytest.mark.parametrize(("hardware", "amp"), [(True, "bf16"), (False, "none")])
def test_auto_is_settled_by_the_machine_and_part_of_the_digest(hardware: bool, amp: str, monkeypatch) -> None:
    monkeypatch.setattr(composing, "multiplies_bf16", lambda device: hardware)
    words = ["model=uplvsm", "io.packed=x"]
    auto, named = compose("train", [*words, "train.amp=auto"]), compose("train", [*words, f"train.amp={amp}"])
    assert auto.train.amp == amp and digest(auto) == digest(named)
    other = compose("train", [*words, f"train.amp={'none' if hardware else 'bf16'}"])
    assert digest(auto) != digest(other)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("flags : fpu avx512_bf16 amx_tile", True), ("Features : asimd bf16", True), ("fpu avx2", False)],
)
def test_what_the_processor_says_of_itself_decides(flags: str, expected: bool, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "cpuinfo").write_text(flags)
    real = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda self: real(tmp_path / "cpuinfo" if self.name == "cpuinfo" else self))
    composing.multiplies_bf16.cache_clear()
    assert composing.multiplies_bf16("cpu") is expected
    composing.multiplies_bf16.cache_clear()


def test_a_training_says_how_much_of_the_processor_it_used() -> None:
    line = speed_line(53_000_000_000, 0.5, 200e9)
    assert line.startswith("a step: 53.0 GFLOP in 500 ms, 106 GFLOP/s a process, 53% of the 200 ")
    assert product_rate(torch.device("cpu"), torch.float32, 0.02) > 1e9
