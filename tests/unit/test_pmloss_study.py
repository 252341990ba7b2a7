"""Study pmloss: who learns from which pointmaps, what differs between its runs, and the published recipe."""

import json
from pathlib import Path

import pytest

from novelview.config.checkpoints import difference
from novelview.config.compose import compose
from novelview.config.digest import resolved
from novelview.config.plan import SIZED_BY, Plan
from novelview.planning.hours import read_throughput, works
from novelview.scenes.imports.chunk_folder import _with_prefix


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan({"study": "pmloss", "scale": "demo"})


def test_only_the_run_with_the_loss_waits_for_pointmaps(plan: Plan) -> None:
    folder = "data/rooms/pointmaps/exact-x64"
    learns = {run.name: plan.pointmaps(run) for run in plan.runs() if (run.data, run.res) == ("rooms-full", "64")}
    assert learns["depthsplat_pmloss"] == [folder] and learns["depthsplat_plain"] == []


def test_pointmaps_are_made_at_the_size_of_the_training(plan: Plan) -> None:
    words = plan.pointmap_words("exact", "64")
    stage, train = compose("pointmaps", words), plan.composed("train", "depthsplat_pmloss", "pretrain")
    for key in SIZED_BY:
        assert getattr(stage.views, key) == getattr(train.views, key)
    assert (stage.dataset, stage.teacher) == ("rooms", "exact")


def test_the_plan_counts_the_pointmaps(plan: Plan) -> None:
    counted = {work.stage: work.jobs for work in works(plan, read_throughput(), ["cpu"])}
    assert counted["pointmaps"] == 1 and counted["pretrain"] == 2
    other = works(Plan({"study": "less3depend", "scale": "demo"}), read_throughput(), ["cpu"])
    assert "pointmaps" not in {work.stage for work in other}


def test_vggt_is_fetched_for_its_own_pointmaps_alone(plan: Plan) -> None:
    assert plan.teacher_weights("exact") == []
    assert plan.teacher_weights("vggt") == ["pretrained/vggt_1b.safetensors"]


def test_other_studies_know_no_pointmaps() -> None:
    plan = Plan({"study": "less3depend", "scale": "demo"})
    run = plan.runs(trained=True)[0]
    assert plan.pointmaps(run) == []


@pytest.mark.parametrize("scale", ["demo", "mini", "paper"])
def test_the_two_runs_differ_in_the_loss_alone(scale: str) -> None:
    given = {} if scale != "paper" else {"path": "datasets/dl3dv-480p"}
    plan = Plan({"study": "pmloss", "scale": scale, **given})
    plain, pmloss = (resolved(plan.composed("train", name, "pretrain")) for name in plan.study.models)
    assert plain["train"]["losses"]["pointmap"]["weight"] == 0
    assert pmloss["train"]["losses"]["pointmap"]["weight"] == 0.005
    for config in (plain, pmloss):
        config.pop("variant")
        config["train"]["losses"]["pointmap"].pop("weight")
    assert not difference(plain, pmloss)


def test_the_published_recipes() -> None:
    re10k = compose("train", ["model=depthsplat", "scale=paper", "phase=pretrain"])
    assert (re10k.train.lr, re10k.train.lr_pretrained, re10k.train.weight_decay) == (2e-4, 2e-6, 0.01)
    assert (re10k.train.schedule, re10k.train.decay, re10k.train.clip_norm) == ("onecycle", "all", 0.5)
    assert re10k.train.steps * re10k.train.batch_size * 8 == 4_800_000
    assert (re10k.train.losses.lpips, re10k.train.losses.lpips_from, re10k.train.losses.mse) == (0.05, 0, 1.0)
    assert (re10k.views.num_context, re10k.views.num_target, re10k.views.augment.mirror) == (2, 4, True)
    assert (re10k.model.near, re10k.model.far) == (0.5, 100.0)
    pm = Plan({"study": "pmloss", "scale": "paper", "path": "x"}).composed("train", "depthsplat_pmloss", "pretrain")
    assert (pm.train.steps, pm.train.batch_size, pm.views.num_context, pm.views.min_context) == (100_001, 1, 6, 2)
    assert (pm.views.image_size, pm.views.image_width, pm.views.filter) == (256, 448, "bilinear")
    assert (pm.model.near, pm.model.far, pm.model.gaussian.offset_mode) == (1.0, 200.0, "unconstrained")
    losses = pm.train.losses
    assert (losses.ignore_large_mse, losses.damp_above, losses.stale_lpips) == (0.2, 0.1, True)
    assert (losses.pointmap.teacher, losses.pointmap.ignore_large) == ("vggt", 100.0)


def test_index_keys_get_the_prefix_of_the_chunks_they_name(tmp_path: Path) -> None:
    index = tmp_path / "index.json"
    index.write_text(json.dumps({"aa": {"context": [0, 9], "target": [3]}, "dl3dv_bb": None}))
    scenes = {"dl3dv_aa": "000000.torch", "dl3dv_bb": "000000.torch"}
    assert list(json.loads(_with_prefix(index, scenes))) == ["dl3dv_aa", "dl3dv_bb"]
    assert _with_prefix(index, {"aa": "000000.torch"}) == index.read_bytes()
