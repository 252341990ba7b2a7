"""UP-LVSM and PT-LVSM: published sizes, what they read and refuse, paths, precision."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from tiny_models import DINO, NAMES, TRANSFORMER, model_of, uplvsm, views, weights_of

from novelview.cameras.poses import encoding_to_c2w
from novelview.config.models import ModelConfig, PTLVSMConfig
from novelview.errors import ConfigError, DataError
from novelview.models.registry import MODELS, build, load_weights, save_weights
from novelview.scenes.batch import Views


@pytest.mark.parametrize(
    ("name", "parameters", "undecayed", "keys"),
    [("uplvsm", 260_132_743, 184_327, 405), ("ptlvsm", 258_753_024, 183_552, 396)],
)
def test_published_sizes(name: str, parameters: int, undecayed: int, keys: int) -> None:
    with torch.device("meta"):
        model = build(MODELS[name]())
    assert sum(value.numel() for value in model.parameters()) == parameters
    assert sum(value.numel() for value in model.parameters() if value.dim() == 1) == undecayed
    assert len(model.state_dict()) == keys


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("contexts", "targets", "size"), [(1, 1, (28, 28)), (2, 3, (28, 42)), (4, 2, (56, 14))])
def test_any_number_of_views_of_any_shape(name: str, contexts: int, targets: int, size: tuple[int, int]) -> None:
    render = model_of(name)(views(contexts, 1, size), views(targets, 2, size)).images
    assert render.shape == (2, targets, 3, *size)
    assert render.min() >= 0 and render.max() <= 1


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_scenes_and_targets_do_not_see_each_other(name: str) -> None:
    model, context, target = model_of(name), views(2, 1), views(3, 2)
    whole = model(context, target).images
    one = model(context._map(lambda x: x[1:]), target._map(lambda x: x[1:]).span(2, 3)).images
    torch.testing.assert_close(one, whole[1:, 2:], atol=1e-6, rtol=0)


@torch.no_grad()
def test_uplvsm_reads_no_pose() -> None:
    model, context, target = uplvsm(), views(2, 1), views(2, 2)
    render = model(context, target).images
    unposed = [Views(v.images, torch.full_like(v.c2w, math.nan), v.intrinsics) for v in (context, target)]
    assert torch.equal(model(*unposed).images, render)
    assert (model.needs_context_poses, model.needs_target_poses, model.needs_target_images) == (False, False, True)


@torch.no_grad()
def test_ptlvsm_reads_no_target_image_and_no_second_context_pose() -> None:
    model, context, target = model_of("ptlvsm"), views(2, 1), views(2, 2)
    render = model(context, target).images
    partly = torch.cat([context.c2w[:, :1], torch.full_like(context.c2w[:, 1:], math.nan)], dim=1)
    known = dataclasses.replace(context, c2w=partly), dataclasses.replace(target, images=None)
    assert torch.equal(model(*known).images, render)
    assert (model.needs_context_poses, model.needs_target_poses, model.needs_target_images) == (True, True, False)


def test_what_a_model_lacks_is_one_line() -> None:
    context, target = views(2, 1), views(1, 2)
    without = dataclasses.replace(target, images=None)
    with pytest.raises(DataError, match="UPLVSM needs target images"):
        uplvsm()(context, without)
    poseless = dataclasses.replace(target, c2w=None)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="PTLVSM needs the poses of target views"):
        model_of("ptlvsm")(context, poseless)
    for name in NAMES:
        with pytest.raises(DataError, match="needs context images"):
            model_of(name)(dataclasses.replace(context, images=None), target)
        with pytest.raises(DataError, match="42x27 pixels cannot be cut into 14-pixel patches"):
            model_of(name)(views(2, 1, (27, 42)), target)


def test_the_registry_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ConfigError, match="name=nerf: choose one of"):
        build(ModelConfig(name="nerf"))
    with pytest.raises(ConfigError, match="not UPLVSMConfig"):
        build(PTLVSMConfig(name="uplvsm"))


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_path_is_encoded_once_and_decoded_in_chunks(name: str) -> None:
    model, context, path = model_of(name), views(2, 1), views(5, 2)
    calls: list[int] = []
    decode = model.decode
    model.decode = lambda scene, c2w, *rest: calls.append(c2w.shape[1]) or decode(scene, c2w, *rest)  # type: ignore
    rendered = model.render_path(context, path.c2w, path.intrinsics, chunk=2)
    assert calls == [2, 2, 1]
    torch.testing.assert_close(rendered, decode(model.encode(context), path.c2w, path.intrinsics, 28, 42))


@torch.no_grad()
def test_a_path_is_rendered_like_targets() -> None:
    context, target = views(2, 1), views(3, 2)
    for canonical in (False, True):
        model = model_of("ptlvsm", canonical_camera=canonical)
        path = model.render_path(context, target.c2w, target.intrinsics)
        torch.testing.assert_close(path, model(context, target).images, atol=1e-6, rtol=0)
    model = uplvsm()
    assert target.images is not None
    path = model.render_path(context, model.estimate_poses(context, target.images), target.intrinsics)
    torch.testing.assert_close(path, model(context, target).images, atol=1e-6, rtol=0)


@torch.no_grad()
def test_a_canonical_camera_forgets_where_the_world_is() -> None:
    model, context, target = model_of("ptlvsm", canonical_camera=True), views(2, 1), views(2, 2)
    world = encoding_to_c2w(torch.randn(7, generator=torch.Generator().manual_seed(5)))
    moved = [dataclasses.replace(v, c2w=world @ v.c2w) for v in (context, target)]
    torch.testing.assert_close(model(*moved).images, model(context, target).images, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_recomputed_activations_change_no_gradient(name: str) -> None:
    gradients = []
    for recompute in (False, True):
        model = model_of(name).train()
        model.activation_checkpointing = recompute
        model(views(2, 1), views(2, 2)).images.square().mean().backward()
        assert all(value.grad is not None for value in model.parameters())
        gradients.append(torch.cat([value.grad.flatten() for value in model.parameters() if value.grad is not None]))
    assert torch.equal(*gradients)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_autocast_stays_close_and_keeps_cameras_exact(name: str) -> None:
    model, context, target = model_of(name), views(2, 1), views(2, 2)
    exact = model(context, target)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(context, target)
    assert (rounded.images.float() - exact.images).abs().max() < 0.02
    assert all(value.dtype == torch.float32 for key, value in rounded.extras.items() if key.startswith("pose"))


@pytest.mark.parametrize("name", NAMES)
def test_modes_return_the_model(name: str) -> None:
    model = model_of(name)
    assert model.train() is model and model.training
    assert model.eval() is model and not model.training


@torch.no_grad()
def test_pose_heads_start_as_configured() -> None:
    model = uplvsm(pose_identity_bias=True, pose_head_std=1e-6)
    target = views(2, 2)
    assert target.images is not None
    identity = torch.eye(4).expand(2, 2, 4, 4)
    torch.testing.assert_close(model.estimate_poses(views(2, 1), target.images), identity, atol=1e-4, rtol=0)
    assert (
        model_of("uplvsm", transformer=dataclasses.replace(TRANSFORMER, qk_norm_init=3.0))
        .get_parameter("transformer_encoder.0.attn.q_norm.weight")
        .tolist()
        == [3.0] * 16
    )


def test_tied_pose_tokenizers_share_their_weight(tmp_path: Path) -> None:
    model = uplvsm(decoder_as_canonical=True)
    assert model.target_pose_tokenizer is model.canonical_pose_tokenizer
    save_weights(tmp_path / "model.safetensors", model, {"model": dataclasses.asdict(model.cfg)})
    loaded, _ = load_weights(tmp_path / "model.safetensors")
    assert torch.equal(weights_of(loaded), weights_of(model))


def test_without_qk_norm_there_are_no_such_weights() -> None:
    plain = dataclasses.replace(TRANSFORMER, qk_norm=False), dataclasses.replace(DINO, qk_norm=False)
    model = model_of("ptlvsm", transformer=plain[0], dino=plain[1])
    assert not [key for key in model.state_dict() if "q_norm" in key or "k_norm" in key]


@torch.no_grad()
def test_attention_rows_sum_to_at_most_one() -> None:
    attention = uplvsm().attention_map(views(2, 1))
    tokens = 2 * (28 // 14) * (42 // 14)
    assert attention.shape == (2, tokens, tokens)
    assert attention.min() >= 0
    sums = attention.sum(-1)
    assert (sums < 1).all(), "the latents' share is cut off, not redistributed"
