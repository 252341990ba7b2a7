"""The models of scale mini: at most 8 M parameters and 16 MB each, trained with about the same number of operations."""

from dataclasses import replace

import pytest
from torch import nn

from novelview.config.plan import Plan
from novelview.config.stages import TrainStage
from novelview.models.registry import build
from novelview.planning.hours import parameters, training_step

PLAN = Plan({"study": "mini", "scale": "mini"})
SYSTEMS = ("uplvsm", "ptlvsm", "lvsm_decoder_only", "lact", "depthsplat_mv", "depthsplat_mv_pm")
BAND = 0.10  # of the operations of PT-LVSM's training, either way; docs/scaling.md quotes it


def stage(name: str, phase: str) -> TrainStage:
    return PLAN.composed("train", name, phase)


def operations(name: str, phase: str) -> float:
    cfg = stage(name, phase)
    step = training_step(cfg)
    assert step is not None, f"the operations of {name} are not counted"
    return step * cfg.train.steps


def test_the_scaling_study_has_five_of_the_systems_on_four_subsets() -> None:
    ladder = Plan({"study": "scaling", "scale": "mini"})
    assert ladder.study.models == list(SYSTEMS[:5]) and PLAN.study.models == list(SYSTEMS)
    assert len(ladder.runs()) == 20 and {run.subset for run in ladder.runs()} == {"little", "medium", "large", "full"}
    assert {run.res for run in ladder.runs()} == {"112"}
    shared = {run.weights for run in ladder.runs()} & {run.weights for run in PLAN.runs()}
    assert len(shared) == 5  # the runs on all rooms are the same files


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_model_has_at_most_8_million_parameters_and_16_megabytes(name: str) -> None:
    cfg = stage(name, "pretrain")
    model: nn.Module = build(cfg.model)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert 4e6 < count <= 8e6
    assert 2 * sum(value.numel() for value in model.state_dict().values()) <= 15.9e6  # and room for the header
    assert parameters(cfg.model) == pytest.approx(count, rel=0.2)
    assert all(stage(run.name, run.phase).model == cfg.model for run in PLAN.runs() if run.name == name)


@pytest.mark.parametrize(("name", "phase"), [(run.name, run.phase) for run in PLAN.runs()])
def test_every_system_trains_with_about_the_operations_of_ptlvsm(name: str, phase: str) -> None:
    assert operations(name, phase) == pytest.approx(operations("ptlvsm", phase), rel=BAND)


@pytest.mark.parametrize(("name", "phase"), [(run.name, run.phase) for run in PLAN.runs()])
def test_recipes_ask_for_one_gpu_as_the_scale_has_it(name: str, phase: str) -> None:
    cfg = stage(name, phase)
    assert not cfg.train.activation_checkpointing and not cfg.train.compile
    assert cfg.train.losses.perceptual == cfg.train.losses.lpips == 0  # no weights to download
    assert cfg.train.amp == ("none" if name.startswith("depthsplat") else "bf16")
    assert cfg.views.max_frame_dist < 48 and cfg.views.num_context == 2


def test_only_the_loss_tells_the_two_gaussian_systems_apart() -> None:
    plain, held = stage("depthsplat_mv", "pretrain"), stage("depthsplat_mv_pm", "pretrain")
    losses = replace(held.train.losses, pointmap=plain.train.losses.pointmap)
    assert (plain.train.losses.pointmap.weight, held.train.losses.pointmap.weight) == (0.0, 0.005)
    assert (plain.model, plain.views, plain.train) == (held.model, held.views, replace(held.train, losses=losses))
    assert [run.phase for run in PLAN.runs() if run.name == "depthsplat_mv_pm"] == ["pretrain"]
