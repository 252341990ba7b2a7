"""The studies of LVSM: depths in the paper's ratios, recipes as published, weights shared between studies."""

import functools

import pytest

from novelview.config.compose import compose
from novelview.config.plan import Plan
from novelview.config.stages import TrainStage

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
    assert len(digests) == len(plan.all) == 6


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
