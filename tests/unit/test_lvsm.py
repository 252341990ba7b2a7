"""LVSM: published sizes and names, what it reads and refuses, initialisation, its quirk. The studies of LVSM: depths
in the paper's ratios, recipes as published, weights shared between studies."""

import dataclasses
import functools
import math
from pathlib import Path

import pytest
import torch
from tiny_models import TRANSFORMER, model_of, views
from torch import nn

from novelview.config.compose import compose
from novelview.config.models import TransformerConfig
from novelview.config.plan import Plan
from novelview.config.stages import TrainStage
from novelview.errors import CheckpointError, ConfigError, DataError
from novelview.models.lvsm import LVSMEncoderDecoder
from novelview.models.lvsm_efficient import EfficientLVSM
from novelview.models.published import load_published
from novelview.models.registry import MODELS, build, save_weights
from novelview.models.render import ViewModel
from novelview.training.checkpoint import load_init

NAMES = ("lvsm_decoder_only", "lvsm_encoder_decoder")
CAMERAS = ("plucker", "prope", "both")
PHASES = ("pretrain", "finetune")
RECIPE = (256, 8, 8, 2, 6)  # size, patch, views, contexts, targets
BLOCK = {
    "norm1.weight": (768,),
    "attn.to_qkv.weight": (2304, 768),
    "attn.fc.weight": (768, 768),
    "attn.q_norm.weight": (64,),
    "attn.k_norm.weight": (64,),
    "norm2.weight": (768,),
    "mlp.mlp.0.weight": (3072, 768),
    "mlp.mlp.2.weight": (768, 3072),
}
SHARED = {
    "image_tokenizer.1.weight": (768, 576),
    "target_pose_tokenizer.1.weight": (768, 384),
    "image_token_decoder.0.weight": (768,),
    "image_token_decoder.1.weight": (192, 768),
}
OWN = {
    "lvsm_decoder_only": {"transformer_input_layernorm.weight": (768,)},
    "lvsm_encoder_decoder": {"n_light_field_latent": (3072, 768), "transformer_input_layernorm_decoder.weight": (768,)},
}
STACKS = {
    "lvsm_decoder_only": {"transformer_blocks": 24},
    "lvsm_encoder_decoder": {"transformer_encoder": 12, "transformer_decoder": 12},
}


def _published(name: str) -> ViewModel:
    with torch.device("meta"):
        return build(MODELS[name]())


@pytest.mark.parametrize(("name", "parameters"), [(NAMES[0], 170_795_520), (NAMES[1], 173_154_816)])
def test_published_sizes_and_names(name: str, parameters: int) -> None:
    model = _published(name)
    blocks = {
        f"{stack}.{index}.{key}": shape
        for stack, count in STACKS[name].items()
        for index in range(count)
        for key, shape in BLOCK.items()
    }
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == SHARED | OWN[name] | blocks
    assert sum(value.numel() for value in model.parameters()) == parameters
    assert sum(value.numel() for value in model.parameters() if value.dim() == 1) == 41_472
    norms = [module.eps for module in model.modules() if hasattr(module, "eps")]
    assert set(norms) == {1e-5}


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_it_reads_every_context_pose_and_no_target_image(name: str) -> None:
    model, context, target = model_of(name), views(3, 1), views(2, 2)
    render = model(context, target).images
    assert torch.equal(model(context, dataclasses.replace(target, images=None)).images, render)
    for view in range(3):
        moved = context.c2w.clone()
        moved[:, view, :3, 3] += 0.5
        assert not torch.equal(model(dataclasses.replace(context, c2w=moved), target).images, render), view
    assert (model.needs_context_poses, model.needs_target_poses, model.needs_target_images) == (True, True, False)


@pytest.mark.parametrize("name", NAMES)
def test_missing_poses_are_one_line(name: str) -> None:
    model, context, target = model_of(name), views(2, 1), views(1, 2)
    with pytest.raises(DataError, match="needs the poses of context views"):
        model(dataclasses.replace(context, c2w=None), target)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="needs the poses of target views"):
        model(context, dataclasses.replace(target, c2w=None))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", NAMES)
def test_a_checkpoint_of_another_model_or_size_is_one_line(name: str, tmp_path: Path) -> None:
    (other,) = set(NAMES) - {name}
    torch.save({"model": model_of(other).state_dict()}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="lacks the weight"):
        load_published(tmp_path / "other.pt", model_of(name))
    finer = model_of(name, patch_size=7)
    torch.save({"model": finer.state_dict()}, tmp_path / "finer.pt")
    with pytest.raises(CheckpointError, match=r"image_token_decoder.1.weight' is \(147, 32\), this model's is \(588"):
        load_published(tmp_path / "finer.pt", model_of(name))


def _deviations(model: nn.Module) -> list[float]:
    return [layer.weight.std().item() for layer in model.modules() if isinstance(layer, nn.Linear)]


@pytest.mark.parametrize("quirk", [False, True])
def test_the_decoder_of_the_older_reference_kept_default_values_but_for_its_last_block(quirk: bool) -> None:
    wide = TransformerConfig(d=128, d_head=64)
    model = model_of(
        "lvsm_encoder_decoder", transformer=wide, encoder_n_layer=3, decoder_n_layer=3, decoder_init_last_only=quirk
    )
    assert isinstance(model, LVSMEncoderDecoder)
    for index in range(3):
        depth = 0.02 / math.sqrt(2 * (index + 1))
        assert _deviations(model.transformer_encoder[index]) == pytest.approx([depth] * 4, rel=0.05)
        uniform = [1 / math.sqrt(3 * inputs) for inputs in (128, 128, 128, 512)]  # bounds 1/sqrt(inputs)
        expected = uniform if quirk and index < 2 else [depth] * 4
        assert _deviations(model.transformer_decoder[index]) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("name", NAMES)
def test_without_qk_norm_there_are_no_such_weights(name: str) -> None:
    model = model_of(name, transformer=dataclasses.replace(TRANSFORMER, qk_norm=False))
    assert not [key for key in model.state_dict() if "q_norm" in key or "k_norm" in key]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["views.image_size=250"], "views.image_size=250: not a multiple"),
        (["model.patch_size=16", "views.patch_size=8"], "the model's patch_size is 16"),
        (["views.num_target=9"], "views.num_target=9: views.num_views leaves 8"),
        (["model.n_layer=0"], "model.n_layer=0: must be greater than 0"),
        (["model.transformer.d_head=100"], "not a multiple of d_head"),
        (["model.encoder_n_layer=3"], "encoder_n_layer"),
    ],
)
def test_wrong_keys_are_one_line(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        compose("train", ["model=lvsm_decoder_only", "scale=paper", *words])
    assert "\n" not in str(caught.value)


def test_the_quirk_needs_the_initialisation_it_broke() -> None:
    words = ["model.decoder_init_last_only=true", "model.transformer.special_init=false"]
    with pytest.raises(ConfigError, match="decoder_init_last_only=true: needs"):
        compose("train", ["model=lvsm_encoder_decoder", "scale=paper", *words])


@pytest.mark.parametrize("name", NAMES)
def test_the_published_recipe(name: str) -> None:
    pretrain, finetune = (compose("train", [f"model={name}", f"phase={phase}", "scale=paper"]) for phase in PHASES)
    views_, train = pretrain.views, pretrain.train
    assert (views_.image_size, views_.patch_size, views_.num_views, views_.num_context, views_.num_target) == RECIPE
    assert (views_.min_frame_dist, views_.max_frame_dist, views_.scene_scale_factor) == (25, 192, 1.35)
    assert (train.lr, train.steps, train.warmup, train.allowed_gradnorm_factor) == (4e-4, 100_000, 3_000, 5)
    assert train.batch_size * train.grad_accum * 8 == 512
    assert finetune.views.image_size == 512


def test_weights_of_the_other_variant_are_no_starting_point(tmp_path: Path) -> None:
    model = model_of("lvsm_decoder_only")
    save_weights(tmp_path / "model.safetensors", model, {"model": dataclasses.asdict(model.cfg)})
    config = compose("train", ["model=lvsm_encoder_decoder", "scale=demo"])
    words = "model.name is lvsm_decoder_only there and lvsm_encoder_decoder here"
    with pytest.raises(CheckpointError, match=f"weights of another model: {words}"):
        load_init(model_of("lvsm_encoder_decoder"), config, tmp_path / "model.safetensors")


DEPTHS = {"lvsm_l6": 6, "lvsm_l12": 12, "lvsm_l18": 18, "lvsm_l24": 24}


def _config(plan: Plan, name: str, phase: str = "pretrain") -> TrainStage:
    return compose("train", plan.overrides("train", name, phase))


@functools.cache  # a plan composes every stage: tests share it
def _plan(study: str, scale: str) -> Plan:
    return Plan({"study": study, "scale": scale, **({"path": "/data"} if study == "lvsm_objects" else {})})


@pytest.mark.parametrize("scale", ["demo", "paper"])
def test_depths_keep_the_papers_ratios(scale: str) -> None:
    plan = _plan("lvsm", scale)
    full = _config(plan, "lvsm_decoder_only")
    for name, layers in DEPTHS.items():
        config = _config(plan, name)
        assert config.variant == name
        assert config.model.n_layer * 24 == full.model.n_layer * layers  # type: ignore[attr-defined]
        assert config.model.transformer == full.model.transformer  # type: ignore[attr-defined]
    digests = {plan.stage("train", run.name, run.phase, run.subset)["digest"] for run in plan.all}
    assert len(digests) == len(plan.all) == 7


@pytest.mark.parametrize(
    ("study", "name", "gpus", "layers", "scenes"),
    [
        ("lvsm", "lvsm_decoder_only", 8, 24, 512),
        ("lvsm", "lvsm_l18", 8, 18, 64),
        ("lvsm_small", "lvsm_one_node", 8, 12, 128),
        ("lvsm_small", "lvsm_two_gpus", 2, 12, 64),
        ("lvsm_small", "lvsm_one_gpu", 1, 6, 64),
    ],
)
def test_scenes_a_step_are_the_published_ones(study: str, name: str, gpus: int, layers: int, scenes: int) -> None:
    config = _config(_plan(study, "paper"), name)
    assert config.model.n_layer == layers  # type: ignore[attr-defined]
    assert config.train.batch_size * config.train.grad_accum * gpus == scenes
    assert config.views.image_size == 256 and config.train.steps == 100_000


def test_patches_of_twice_the_side_reach_the_views() -> None:
    config = _config(_plan("lvsm_small", "paper"), "lvsm_p16")
    assert config.views.patch_size == config.model.patch_size == 16  # type: ignore[attr-defined]


def test_the_512_study_shares_the_256_weights() -> None:
    one, both = _plan("lvsm", "demo"), _plan("lvsm_512", "demo")
    for name in ("lvsm_decoder_only", "lvsm_encoder_decoder"):
        first = {run.folder: one.stage("train", run.name, run.phase, run.subset) for run in one.all if run.name == name}
        second = {
            run.folder: both.stage("train", run.name, run.phase, run.subset) for run in both.all if run.name == name
        }
        assert first.items() <= second.items() and len(second) == 2


def test_objects_are_seen_from_four_views() -> None:
    plan = _plan("lvsm_objects", "demo")
    for name in ("lvsm_object_decoder_only", "lvsm_object_encoder_decoder"):
        views = _config(plan, name).views
        assert (views.sampler, views.num_context, views.num_target) == ("random", 4, 8)
        assert views.pose_normalisation == "none"


# Efficient-LVSM


def test_efficient_lvsm_has_the_published_size_and_names() -> None:
    model = _published("lvsm_efficient")
    own = {"attn.to_qkv.weight": (2304, 768), "attn.fc.weight": (768, 768), "mlp.mlp.0.weight": (3072, 768)}
    own |= {"attn.q_norm.weight": (64,), "attn.k_norm.weight": (64,), "mlp.mlp.2.weight": (768, 3072)}
    cross = {"to_q.weight": (768, 768), "to_kv.weight": (1536, 768), "fc.weight": (768, 768)}
    cross |= {"q_norm.weight": (64,), "k_norm.weight": (64,)}
    decoder = {key.replace("attn.", "self_attn."): shape for key, shape in own.items()}
    decoder |= {f"cross_attn.{key}": shape for key, shape in cross.items()}
    wanted = {f"input_self_attn_blocks.{n}.{key}": shape for n in range(12) for key, shape in own.items()}
    wanted |= {f"self_cross_blocks.{n}.{key}": shape for n in range(12) for key, shape in decoder.items()}
    wanted |= {"rgbp_tokenizer.1.weight": (768, 576), "target_pose_tokenizer.1.weight": (768, 384)}
    wanted |= {"image_token_decoder.1.weight": (192, 768)}
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == wanted and len(wanted) == 207
    assert sum(value.numel() for value in model.parameters()) == 199_070_208


def _efficient(cameras: str) -> EfficientLVSM:
    model = model_of("lvsm_efficient", cameras=cameras)
    assert isinstance(model, EfficientLVSM)
    return model


@pytest.mark.parametrize("cameras", CAMERAS)
@torch.no_grad()
def test_views_are_added_to_a_memory_in_any_order_and_grouping(cameras: str) -> None:
    model, context, target = _efficient(cameras), views(4, 1), views(3, 2)
    whole = model(context, target).images
    order = torch.tensor([[2, 0, 3, 1]] * 2)
    shuffled = context.take(order)
    memory = model.encode(shuffled.span(3, 4), model.encode(shuffled.span(1, 3), model.encode(shuffled.span(0, 1))))
    assert (model.decode(memory, target.c2w, target.intrinsics, 28, 42) - whole).abs().max() < 1e-5
    alone = model.decode(memory, target.c2w[:, 1:2], target.intrinsics[:, 1:2], 28, 42)
    assert (alone - whole[:, 1:2]).abs().max() < 1e-5, "targets do not see each other"
    assert torch.equal(model(context, dataclasses.replace(target, images=None)).images, whole)


@pytest.mark.parametrize("cameras", CAMERAS)
@torch.no_grad()
def test_only_relative_cameras_are_blind_to_where_the_world_has_its_origin(cameras: str) -> None:
    model, context, target = _efficient(cameras), views(2, 1), views(2, 2)
    turned = torch.tensor([[0.0, -1, 0, 0.7], [1, 0, 0, -0.4], [0, 0, 1, 0.9], [0, 0, 0, 1]])
    moved = [dataclasses.replace(part, c2w=turned @ part.c2w) for part in (context, target)]
    difference = (model(*moved).images - model(context, target).images).abs().max()
    assert (difference < 1e-4) == (cameras == "prope")
    nearer = dataclasses.replace(target, c2w=target.c2w + torch.tensor([0.0, 0, 0, 0.5]) * torch.eye(4)[:, 3:].mT)
    assert not torch.equal(model(context, nearer).images, model(context, target).images)


def test_relative_cameras_need_heads_of_a_multiple_of_8() -> None:
    words = ["model=lvsm_efficient", "scale=demo", "model.cameras=prope", "model.transformer.d_head=4"]
    with pytest.raises(ConfigError, match=r"model\.transformer\.d_head=4: model\.cameras=prope needs a multiple of 8"):
        compose("train", words, without_io=True)
    with pytest.raises(ConfigError, match=r"model\.cameras=rays: choose one of plucker, prope, both"):
        compose("train", ["model=lvsm_efficient", "scale=demo", "model.cameras=rays"], without_io=True)


def test_the_recipe_of_efficient_lvsm_is_the_published_one() -> None:
    train = compose("train", ["model=lvsm_efficient", "scale=paper", "phase=pretrain"], without_io=True).train
    assert (train.lr, train.warmup, train.schedule) == (4e-4, 3000, "constant")
    assert (train.clip_norm, train.allowed_gradnorm_factor, train.losses.perceptual) == (5.0, 10.0, 0.5)
