"""UP-LVSM and PT-LVSM: published sizes, what they read and refuse, paths, precision. Weights files: one alone rebuilds
its model; what cannot be used says so. Initialisation, blocks, patches and the DINOv2 tokenizer."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_models import DINO, NAMES, TRANSFORMER, config, model_of, uplvsm, views, weights_of
from torch import nn

from novelview.cameras.poses import encoding_to_c2w
from novelview.config.checkpoints import FORMAT, ForeignWeightsError, read_config
from novelview.config.models import ModelConfig, PTLVSMConfig, TransformerConfig
from novelview.errors import CheckpointError, ConfigError, DataError
from novelview.models.dinov2 import DinoVisionTransformer, load_dino, resize_pos_embed, sincos_table
from novelview.models.layers import Block, Patchify, RMSNorm, unpatchify
from novelview.models.published import load_published
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


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_weights_file_alone_rebuilds_its_model(name: str, tmp_path: Path) -> None:
    model, path = model_of(name), tmp_path / "model.safetensors"
    resolved = {"scale": "demo", "model": dataclasses.asdict(config(name))}
    save_weights(path, model, resolved)
    loaded, kept = load_weights(path)
    assert kept == resolved == read_config(path)
    assert not loaded.training
    context, target = views(2, 1), views(1, 2)
    assert torch.equal(loaded(context, target).images, model(context, target).images)
    first = path.read_bytes()
    save_weights(path, model, resolved)
    assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]


def test_weights_files_that_cannot_be_used_say_so(tmp_path: Path) -> None:
    model, path = model_of("ptlvsm"), tmp_path / "model.safetensors"
    with pytest.raises(CheckpointError, match="no such file"):
        load_weights(path)
    node = dataclasses.asdict(config("ptlvsm"))
    for changed, words in (
        ({**node, "name": "lvsm"}, "unknown model 'lvsm'"),
        ({**node, "colour": 3}, "another version"),
        ({**node, "n_layer": 3}, "transformer_blocks.2"),
    ):
        save_weights(path, model, {"model": changed})
        with pytest.raises(CheckpointError, match=words):
            load_weights(path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(CheckpointError, match="damaged"):
        load_weights(path)


@pytest.mark.parametrize("place", [1, 40, -1])
def test_weights_that_changed_but_stayed_finite_are_refused(tmp_path: Path, place: int) -> None:
    model, path = model_of("ptlvsm"), tmp_path / "model.safetensors"
    save_weights(path, model, {"model": dataclasses.asdict(config("ptlvsm"))})
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    content[start + place if place > 0 else -4] ^= 1  # a last bit of some number
    path.write_bytes(content)
    for load in (load_weights, lambda path: load_published(path, model_of("ptlvsm"))):
        with pytest.raises(CheckpointError, match=r"model\.safetensors: its tensors changed since they were written"):
            load(path)
    save_file(dict(model_of("ptlvsm").state_dict()), path)  # of another program, without a checksum
    load_published(path, model)


@pytest.mark.parametrize("text", ["{}", "{", "[]", '{"model": null}', "[" * 100_000])
def test_a_damaged_header_is_one_line(tmp_path: Path, text: str) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "m.safetensors", {"format": FORMAT, "config": text})
    with pytest.raises(CheckpointError, match="configuration in its header is damaged") as caught:
        read_config(tmp_path / "m.safetensors")
    assert "\n" not in str(caught.value)


def test_a_size_no_model_has_is_refused(tmp_path: Path) -> None:
    node = dataclasses.asdict(config("ptlvsm"))
    save_weights(tmp_path / "m.safetensors", model_of("ptlvsm"), {"model": {**node, "n_layer": 0}})
    with pytest.raises(CheckpointError, match="n_layer=0"):
        load_weights(tmp_path / "m.safetensors")


def test_a_file_of_others_is_told_from_a_damaged_header(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "m.safetensors")
    with pytest.raises(ForeignWeightsError, match=r"io\.init"):
        read_config(tmp_path / "m.safetensors")


@pytest.mark.parametrize("blocks", ["transformer_encoder", "transformer_decoder", "estimator.transformer_estimator"])
@pytest.mark.parametrize("gain", [1.0, 5.0])
def test_initial_deviations(blocks: str, gain: float) -> None:
    wide = TransformerConfig(d=128, d_head=64, init_gain=gain)
    model = uplvsm(transformer=wide, dino=dataclasses.replace(DINO, embed_dim=128))
    stack = model.get_submodule(blocks)
    for index, block in enumerate(stack.children()):
        depth = 1.0 if blocks.startswith("estimator") else math.sqrt(2 * (index + 1))
        for layer in (module for module in block.modules() if isinstance(module, nn.Linear)):
            assert layer.weight.std().item() == pytest.approx(gain * 0.02 / depth, rel=0.05)
    for name in ("target_pose_tokenizer.1", "canonical_pose_tokenizer.1", "image_token_decoder.1"):
        weight = model.get_parameter(f"{name}.weight")
        assert weight.std().item() == pytest.approx(gain * 0.02, rel=0.05)
    assert model.n_light_field_latent.std().item() == pytest.approx(0.02, rel=0.2)


@pytest.mark.parametrize(("special", "depth", "expected"), [(True, False, 0.02 / math.sqrt(4)), (False, True, 0.02)])
def test_other_initialisations(special: bool, depth: bool, expected: float) -> None:
    wide = TransformerConfig(d=128, d_head=64, special_init=special, depth_init=depth)
    model = model_of("ptlvsm", transformer=wide, dino=dataclasses.replace(DINO, embed_dim=128))
    for index in range(2):
        weight = model.get_parameter(f"transformer_blocks.{index}.mlp.mlp.0.weight")
        assert weight.std().item() == pytest.approx(expected, rel=0.05)


@torch.no_grad()
def test_explicit_attention_weights_give_the_fused_result() -> None:
    torch.manual_seed(0)
    block, x = Block(TRANSFORMER), torch.randn(2, 7, 32)
    q, k, values = block.attn.projected(x)
    weights = (q @ k.mT * 16**-0.5).softmax(-1)
    torch.testing.assert_close(block.attn(x), block.attn.fc((weights @ values).transpose(1, 2).flatten(2)))
    torch.testing.assert_close(block.attn.weights(x), weights.mean(1))


def test_rms_norm_is_computed_in_float32() -> None:
    norm, x = RMSNorm(64, 1e-3), torch.full((1, 64), 300.0, dtype=torch.float16)
    assert norm(x).dtype == torch.float16, "300^2 overflows float16"
    torch.testing.assert_close(norm(x), torch.ones(1, 64, dtype=torch.float16))


def test_patches_are_rows_of_row_column_channel() -> None:
    images = torch.rand(2, 3, 6, 4)
    patches = Patchify(2)(images)
    assert patches.shape == (2, 6, 12)
    torch.testing.assert_close(patches[0, 3], images[0, :, 2:4, 2:4].permute(1, 2, 0).flatten())
    assert torch.equal(unpatchify(patches, 2, 6, 4), images)


@pytest.mark.parametrize("depth", [0, 2])
def test_dino_of_any_depth_gives_one_token_a_patch(depth: int) -> None:
    vit = DinoVisionTransformer(dataclasses.replace(DINO, depth=depth))
    assert vit(torch.rand(2, 3, 28, 56)).shape == (2, 8, 32)


def test_the_position_table_is_kept_at_its_own_grid_and_resized_elsewhere() -> None:
    table = torch.randn(1, 26, 8, generator=torch.Generator().manual_seed(0))
    assert resize_pos_embed(table, 5, 5, True) is table
    for rows, columns in ((4, 4), (1, 25), (7, 3)):
        resized = resize_pos_embed(table, rows, columns, True)
        assert resized.shape == (1, 1 + rows * columns, 8)
        assert torch.equal(resized[:, 0], table[:, 0])
    constant = resize_pos_embed(torch.ones(1, 26, 8), 3, 8, True)
    torch.testing.assert_close(constant, torch.ones(1, 25, 8))


def test_sincos_positions_tell_rows_from_columns() -> None:
    vit = DinoVisionTransformer(dataclasses.replace(DINO, pos_init="sincos"))
    table = sincos_table(5, 32)
    torch.testing.assert_close(vit.pos_embed[0, 1:], 0.2 * table)
    grid = table.view(5, 5, 32)
    torch.testing.assert_close(grid[2, :, :16], grid[2, :1, :16].expand(5, 16))
    torch.testing.assert_close(grid[:, 2, 16:], grid[:1, 2, 16:].expand(5, 16))
    assert torch.cdist(table, table).fill_diagonal_(9).min() > 0.1


def test_dino_takes_public_weights_and_keeps_the_grafted_norms(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = DinoVisionTransformer(dataclasses.replace(DINO, qk_norm=False))
    torch.save({**source.state_dict(), "mask_token": torch.zeros(1, 32)}, tmp_path / "dino.pth")
    model = model_of("ptlvsm", dino=dataclasses.replace(DINO, weights=str(tmp_path / "dino.pth")))
    loaded = model.get_submodule("image_tokenizer.1.dino_vit").state_dict()
    for key, value in source.state_dict().items():
        assert torch.equal(loaded[key], value), key
    assert torch.equal(loaded["blocks.0.attn.q_norm.weight"], torch.ones(16))


def test_dino_refuses_what_is_missing_or_does_not_fit(tmp_path: Path) -> None:
    vit = DinoVisionTransformer(DINO)
    with pytest.raises(CheckpointError, match=r"no such file.*model.dino.weights=null"):
        load_dino(vit, str(tmp_path / "absent.pth"))
    state = vit.state_dict()
    torch.save({key: value for key, value in state.items() if key != "norm.bias"}, tmp_path / "short.pth")
    with pytest.raises(CheckpointError, match=r"lacks the weight 'norm.bias'"):
        load_dino(vit, str(tmp_path / "short.pth"))
    torch.save({**state, "pos_embed": torch.zeros(1, 5, 32)}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="pos_embed"):
        load_dino(vit, str(tmp_path / "other.pth"))
