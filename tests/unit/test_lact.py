"""LaCT: published sizes and start, two phases, states on disk, what is refused."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from tiny_models import model_of, views

from novelview.config.compose import compose
from novelview.config.models import LaCTConfig, TTTConfig
from novelview.errors import CheckpointError, ConfigError, DataError
from novelview.evaluation.encoded_scene import Encoded, Facts, load_scene, save_scene
from novelview.models.lact import FastWeightLayer, LaCT, posed_pixels
from novelview.models.published import load_published
from novelview.models.registry import build, save_weights
from novelview.scenes.batch import Views


def _lact(**changes: object) -> LaCT:
    model = model_of("lact", **changes)
    assert isinstance(model, LaCT)
    return model


@pytest.mark.parametrize(
    ("size", "parameters", "keys", "start"),
    [
        ("lact", 312_298_056, 412, 84_934_656),
        ("lact_l14_ttt2x", 182_481_706, 242, 49_545_216),
        ("lact_l24_ttt2x", 312_298_056, 412, 84_934_656),
        ("lact_l24_ttt4x", 397_232_712, 412, 169_869_312),
    ],
)
def test_published_sizes(size: str, parameters: int, keys: int, start: int) -> None:
    words = ["model=lact", "scale=paper", f"size=paper/{size}", "recipe=demo/lvsm_decoder_only/pretrain"]
    with torch.device("meta"):
        model = build(compose("train", words).model)
    assert sum(value.numel() for value in model.parameters()) == parameters
    assert len(model.state_dict()) == keys
    fast = [value for name, value in model.named_parameters() if name.rpartition(".")[2] in ("w0", "w1", "w2")]
    assert sum(value.numel() for value in fast) == start


def test_initial_deviations() -> None:
    model = _lact(d=64, d_head=16, n_layer=3, ttt=TTTConfig(d_head=32, inter_multi=4))
    expected = {"c_proj.weight": 0.02 / 3, "to_qkv.weight": 0.02, "c_fc.weight": 0.02, "input_linear.weight": 0.02}
    expected |= {"w0": (2 / 32) ** 0.5, "w2": (2 / 32) ** 0.5, "w1": (2 / 128) ** 0.5}
    for name, value in model.named_parameters():
        for end, deviation in expected.items():
            if name.endswith(f".{end}") or name == end:
                assert value.std().item() == pytest.approx(deviation, rel=0.06), name
        if name.endswith(("norm.weight", "ln.weight")):
            assert (value == 1).all(), name
        if name.endswith("lr_fc.bias"):
            assert (value == 0).all(), name


def test_tokens_start_with_the_base_rate() -> None:
    slow, layer = (FastWeightLayer(LaCTConfig(d=8, ttt=TTTConfig(d_head=4, base_lr=rate))) for rate in (0.01, 0.03))
    assert slow.lr_offset == pytest.approx(-4.600166, abs=1e-6)
    torch.nn.init.zeros_(layer.lr_fc.weight)
    torch.nn.init.zeros_(layer.lr_fc.bias)
    torch.testing.assert_close(layer.rates(torch.randn(2, 5, 8)), torch.full((3, 4, 5), 0.03))


def test_rates_are_ordered_by_weight_then_head() -> None:
    layer = FastWeightLayer(LaCTConfig(d=8, ttt=TTTConfig(d_head=4)))
    torch.nn.init.zeros_(layer.lr_fc.weight)
    layer.lr_fc.bias.data = torch.arange(6.0) - layer.lr_offset
    rates = layer.rates(torch.zeros(1, 1, 8))[..., 0]
    torch.testing.assert_close(rates, torch.nn.functional.softplus(torch.arange(6.0)).view(3, 2))


def test_channels_are_ray_moment_and_colour() -> None:
    seen = views(2, 1)
    assert seen.images is not None
    pixels = posed_pixels(seen.images, seen.c2w, seen.intrinsics)
    origin, direction, moment, colour = pixels.split(3, dim=2)
    assert torch.equal(origin[..., 0, 0], seen.c2w[..., :3, 3])
    torch.testing.assert_close(direction.norm(dim=2), torch.ones_like(direction[:, :, 0]))
    torch.testing.assert_close(moment, torch.linalg.cross(origin, direction, dim=2))
    assert torch.equal(colour, 2 * seen.images - 1)
    blank = posed_pixels(None, seen.c2w, seen.intrinsics, seen.images.shape[-2:])
    assert torch.equal(blank[:, :, :9], pixels[:, :, :9]) and not blank[:, :, 9:].any()


def _two_phases(model: LaCT, context: Views, targets: Views, size: tuple[int, int]) -> torch.Tensor:
    state = model.reconstruct(context)
    pairs = zip(targets.c2w.split(1, dim=1), targets.intrinsics.split(1, dim=1), strict=True)
    return torch.cat([model.render(state, c2w, lens, *size) for c2w, lens in pairs], dim=1)


@pytest.mark.parametrize("contexts", [1, 5, 9])
@torch.no_grad()
def test_learnt_once_and_rendered_120_times(contexts: int) -> None:
    model, context, targets = _lact(), views(contexts, 1, (28, 42), 1), views(120, 2, (28, 42), 1)
    once = _two_phases(model, context, targets, (28, 42))
    torch.testing.assert_close(once, model(context, targets).images, atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_order_of_context_views_does_not_matter() -> None:
    model, context, target = _lact(), views(4, 1), views(2, 2)
    turned = context.take(torch.tensor([[2, 0, 3, 1]] * 2))
    torch.testing.assert_close(model(turned, target).images, model(context, target).images, atol=1e-5, rtol=0)


@torch.no_grad()
def test_every_context_view_and_its_camera_count() -> None:
    model, context, target = _lact(), views(3, 1), views(1, 2)
    whole = model(context, target).images
    moved = context.c2w.clone()
    moved[:, 2, :3, 3] += 1
    for other in (context.span(0, 2), dataclasses.replace(context, c2w=moved)):
        assert (model(other, target).images - whole).abs().max() > 1e-4


@torch.no_grad()
def test_a_state_renders_any_size_and_does_not_grow_with_the_views() -> None:
    model, target = _lact(), views(2, 2)
    states = [model.reconstruct(views(count, 1)) for count in (2, 6)]
    shapes = [[w.shape for block in state.blocks for w in block] for state in states]
    assert shapes[0] == shapes[1]
    assert model.render(states[0], target.c2w, target.intrinsics, 56, 14).shape == (2, 2, 3, 56, 14)


def _saved(folder: Path, **changes: object) -> tuple[LaCT, Path, Encoded]:
    """Return a model, its weights file, and a scene it encoded; save the scene beside the weights."""
    model, weights, context = _lact(**changes), folder / "model.safetensors", views(3, 1, scenes=1)
    save_weights(weights, model, {"model": dataclasses.asdict(model.cfg)})
    facts = Facts(**Facts.of(weights), scene="room", frames=[0, 1, 2], height=28, width=42)
    with torch.no_grad():
        encoded = Encoded(model.reconstruct(context), context.c2w[0], context.intrinsics[0], facts)
    save_scene(folder / "scene.safetensors", encoded)
    return model, weights, encoded


@torch.no_grad()
def test_a_state_comes_back_from_disk(tmp_path: Path) -> None:
    model, weights, encoded = _saved(tmp_path)
    content = (tmp_path / "scene.safetensors").read_bytes()
    save_scene(tmp_path / "scene.safetensors", encoded)
    assert (tmp_path / "scene.safetensors").read_bytes() == content
    loaded = load_scene(tmp_path / "scene.safetensors", weights, torch.device("cpu"))
    assert loaded.facts == encoded.facts and len(loaded.facts.digest) == 12
    camera = encoded.c2w[None], encoded.intrinsics[None], 28, 42
    assert torch.equal(model.render(loaded.scene, *camera), model.render(encoded.scene, *camera))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layer": 3}, r"a scene of another model: model.n_layer is 2 there and 3 here"),
        ({"ttt": TTTConfig(d_head=8)}, r"model.ttt.d_head is 4 there and 8 here"),
        ({"init_gain": 2.0}, "encoded by other weights than"),
    ],
)
def test_a_state_of_another_model_is_refused(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    _saved(tmp_path)
    (tmp_path / "other").mkdir()
    _, weights, _ = _saved(tmp_path / "other", **changes)
    with pytest.raises(CheckpointError, match=message) as error:
        load_scene(tmp_path / "scene.safetensors", weights, torch.device("cpu"))
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_state_is_refused(tmp_path: Path) -> None:
    _, weights, encoded = _saved(tmp_path)
    path = tmp_path / "scene.safetensors"
    encoded.scene.blocks[1].w1[0, 0, 0] = math.nan
    save_scene(path, encoded)
    with pytest.raises(CheckpointError, match=r"'blocks.1.w1' has values that are not finite"):
        load_scene(path, weights, torch.device("cpu"))
    for content in (path.read_bytes()[:-5], b"\x00" * 40, weights.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="not an encoded scene"):
            load_scene(path, weights, torch.device("cpu"))
    with pytest.raises(CheckpointError, match="no such file"):
        load_scene(tmp_path / "none", weights, torch.device("cpu"))


def test_cameras_of_other_scenes_are_refused() -> None:
    model, target = _lact(), views(1, 2, scenes=3)
    states = {scenes: model.reconstruct(views(2, 1, scenes=scenes)) for scenes in (2, 3)}
    with pytest.raises(DataError, match="a state of 2 scenes cannot render cameras of 3 scenes"):
        model.render(states[2], target.c2w, target.intrinsics, 28, 42)
    with pytest.raises(DataError, match="30x28 pixels cannot be cut into 14-pixel patches"):
        model.render(states[3], target.c2w, target.intrinsics, 28, 30)
    with pytest.raises(DataError, match="of a model of another size"):
        _lact(n_layer=3).render(states[3], target.c2w, target.intrinsics, 28, 42)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model.ttt.d_head=36"], r"model.d=96: not a multiple of model.ttt.d_head=36"),
        (["model.d_head=20"], r"model.d=96: not a multiple of model.d_head=20"),
        (["model.ttt.precision=bf16"], "choose one of accurate, reference"),
        (["model.ttt.steps=-1"], r"model.ttt.steps=-1: must be 0 or more"),
        (["model.ttt.inter_multi=0.01"], "leaves no hidden unit"),
        (["model.ttt.base_lr=0"], r"model.ttt.base_lr=0.0: must be greater than 0"),
    ],
)
def test_wrong_sizes_are_one_line(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose("train", ["model=lact", "recipe=demo/lvsm_decoder_only/pretrain", "views.image_size=56", *words])


@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod."])
def test_a_training_state_of_wrapped_blocks_loads(tmp_path: Path, prefix: str) -> None:
    source, model = _lact(), _lact(init_gain=2.0)
    names = [name.replace("module_list", "_checkpoint_wrapped_module.module_list") for name in source.state_dict()]
    weights = {prefix + name: value for name, value in zip(names, source.state_dict().values(), strict=True)}
    torch.save({"model": weights, "optimizer": {}, "now_iters": 7, "epoch": 0}, tmp_path / "model_0000007.pth")
    load_published(tmp_path / "model_0000007.pth", model)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in source.state_dict().items())


def test_a_checkpoint_of_another_size_is_refused(tmp_path: Path) -> None:
    torch.save({"model": _lact(n_layer=1).state_dict()}, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match=r"lacks the weight 'blocks.1.module_list.0.f.c_proj.weight'"):
        load_published(tmp_path / "model.pth", _lact())
    torch.save({"model": _lact(ttt=TTTConfig(d_head=8)).state_dict()}, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="choose the right size"):
        load_published(tmp_path / "model.pth", _lact())
    torch.save({"model": model_of("ptlvsm").state_dict()}, tmp_path / "model.pth")
    with pytest.raises(CheckpointError, match="is it a checkpoint of this model and size"):
        load_published(tmp_path / "model.pth", _lact())


def test_without_qk_norm_there_are_no_such_weights() -> None:
    assert not [key for key in _lact(qk_norm=False).state_dict() if "q_norm" in key or "k_norm" in key]


@torch.no_grad()
def test_the_reference_precision_is_a_choice() -> None:
    rounded = _lact(ttt=TTTConfig(d_head=4, precision="reference"))
    context, target = views(6, 1), views(2, 2)
    difference = (rounded(context, target).images - _lact()(context, target).images).abs().max()
    assert 1e-6 < difference < 0.05


@pytest.mark.slow
def test_compiled_it_computes_the_same() -> None:
    context, target = views(3, 1), views(2, 2)
    results = []
    for compiled in (False, True):
        model = _lact(n_layer=1, ttt=TTTConfig(d_head=4, steps=2))
        if compiled:
            model.compile(backend="aot_eager", fullgraph=True)
        images = model(context, target).images
        images.square().mean().backward()
        gradients = [value.grad.flatten() for value in model.parameters() if value.grad is not None]
        results.append((images.detach(), torch.cat(gradients)))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)
