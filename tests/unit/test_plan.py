"""The plan of a study: runs, folders, digests that move only with their own configuration, and one-line mistakes."""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from novelview.config.compose import MODELS, compose, conf_dir, read_config_file
from novelview.config.plan import Plan
from novelview.config.study import load_study
from novelview.errors import ConfigError
from novelview.models.registry import build

MADE: dict[str, Any] = {
    "defaults": ["study_schema"],
    "name": "made",
    "variants": {"ptlvsm_l2": {"model": "ptlvsm", "train": ["model.n_layer=2"]}},
    "models": ["ptlvsm", "ptlvsm_l2"],
    "phases": ["pretrain", "finetune"],
    "data": {"demo": {"source": "rooms", "dataset": "rooms", "eval": "rooms"}},
}


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(conf_dir(), tmp_path / "conf")
    monkeypatch.setenv("NOVELVIEW_CONF", str(tmp_path / "conf"))
    return tmp_path / "conf"


def made(conf: Path, config: dict[str, Any] | None = None, **changes: Any) -> Plan:
    (conf / "study/made.yaml").write_text(yaml.safe_dump(MADE | changes))
    return Plan({"study": "made", **(config or {})})


def digests(plan: Plan) -> dict[str, str]:
    return {
        run.place: plan.stage("train", run.name, run.phase, run.subset)["digest"] for run in plan.runs(trained=True)
    }


def at(plan: Plan, place: str) -> dict[str, str]:
    run, data, last = place.split("/")
    phase, res = last.split("-x")
    return plan.train(SimpleNamespace(run=run, data=data, phase=phase, res=res))


def planned(plan: Plan, place: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the configuration in the file that the rule of a run's training is given."""
    monkeypatch.chdir(folder)
    plan.writes = True
    return read_config_file("train", at(plan, place)["config"])


def test_the_demo_has_the_paths_and_names_it_always_had() -> None:
    plan = Plan({})
    assert [run.place for run in plan.runs()] == [
        f"{model}/rooms-full/{last}"
        for model in ("uplvsm", "uplvsm_prope", "ptlvsm", "lvsm_efficient_prope")
        for last in ("pretrain-x64", "finetune-x112")
    ] + ["depthsplat_mv/rooms-full/pretrain-x64"]
    assert plan.runs()[1].start == "results/demo/models/uplvsm/rooms-full/pretrain-x64/model.safetensors"
    assert (plan.figures, plan.tables) == (plan.study.figures, ["results_table", "transfer_table"])
    assert plan.results == "results/demo/less3depend" and plan.extras == []


def test_a_variant_is_its_model_with_other_values_under_its_own_name(conf: Path, tmp_path, monkeypatch):
    plan = made(conf)
    assert [run.name for run in plan.runs(trained=True, started=False)] == ["ptlvsm", "ptlvsm_l2"]
    own, other = (plan.composed("train", name, "pretrain") for name in ("ptlvsm_l2", "ptlvsm"))
    assert (own.variant, own.model.name, own.model.n_layer) == ("ptlvsm_l2", "ptlvsm", 2)
    assert (other.variant, other.train.lr, other.model.transformer.d) == ("", own.train.lr, own.model.transformer.d)
    assert planned(plan, "ptlvsm_l2/rooms-full/pretrain-x64", tmp_path, monkeypatch).variant == "ptlvsm_l2"


def test_a_digest_moves_only_with_its_own_runs_configuration(conf: Path) -> None:
    before = digests(made(conf, subsets={"demo": ["medium", "full"]}))
    assert len(set(before.values())) == len(before) == 8
    variants = {"ptlvsm_l2": {"model": "ptlvsm", "train": ["model.n_layer=3"]}}
    after = digests(made(conf, variants=variants, subsets={"demo": ["full", "medium", "large"]}))
    moved = {place for place, digest in before.items() if after[place] != digest}
    assert moved == {place for place in before if place.startswith("ptlvsm_l2/")}


def test_subsets_belong_to_a_scale_and_bring_the_scaling_figure(conf: Path, tmp_path, monkeypatch):
    plan = made(conf, subsets={"demo": ["little", "full"], "paper": ["full"]})
    assert {run.data for run in plan.runs()} == {"rooms-little", "rooms-full"}
    assert plan.figures[-1] == "scaling" and plan.tables[-1] == "scaling_table"
    assert planned(plan, "ptlvsm/rooms-little/finetune-x112", tmp_path, monkeypatch).subset == "little"
    later = [run for run in plan.runs(trained=True, started=True) if run.subset == "little"]
    assert all("rooms-little" in run.start for run in later) and len(later) == 2


def test_any_number_of_phases_each_starts_from_the_one_before(conf: Path) -> None:
    model = conf / "models/ptlvsm.yaml"
    wide = "    wide: {extends: ptlvsm/finetune, views: {image_size: 56, image_width: 96, resize: cover}}\n"
    model.write_text(model.read_text().replace("recipes:\n  demo:\n", f"recipes:\n  demo:\n{wide}"))
    plan = made(conf, phases=["pretrain", "finetune", "wide"])
    chain = [run for run in plan.runs() if run.name == "ptlvsm"]
    assert [run.res for run in chain] == ["64", "112", "56x96"]
    assert [run.start for run in chain] == ["", chain[0].weights, chain[1].weights]
    assert plan.runs(trained=True, started=True) == [run for run in plan.runs() if run.start]


def test_constraints_match_the_planned_folders_and_nothing_else(conf: Path) -> None:
    plan = made(conf)
    first = re.compile(
        f"models/(?P<run>{plan.folders(plan.runs(trained=True, started=False))})/(?P<data>[^/]+)"
        "/(?P<phase>[a-z]+)-x(?P<res>[0-9x]+)/m"
    )
    assert first.fullmatch("models/ptlvsm_l2/rooms-full/pretrain-x64/m")
    assert not first.fullmatch("models/ptlvsm_l2/rooms-full/finetune-x112/m") and not first.fullmatch(
        "models/ptlvsm/rooms-little/pretrain-x64/m"
    )
    assert not re.fullmatch(plan.folders([]), "")


def test_an_adopted_checkpoint_takes_the_place_of_its_phase(tmp_path: Path) -> None:
    plan = Plan({"scale": "paper", "init": "uplvsm_x224"})
    own = [run for run in plan.runs() if run.name == "uplvsm"]
    assert own[0].adopted == "uplvsm_x224" and own[0].folder.endswith("uplvsm/re10k-published/pretrain-x224")
    assert own[0].weights == "results/paper/models/uplvsm/published/pretrain-x224/model.safetensors"
    assert {run.start for run in own[1:]} == {own[0].weights} and {run.res for run in own[1:]} == {"518"}
    assert all("uplvsm_x224" in run.data for run in own[1:])
    assert len([run for run in plan.runs() if run.name == "ptlvsm"]) == 8
    last = [run for run in Plan({"scale": "paper", "init": "uplvsm_x518"}).runs() if run.name == "uplvsm"]
    assert [(run.res, run.adopted) for run in last] == [("518", "uplvsm_x518")]


def test_ones_own_file_is_adopted_as_the_run_it_names(tmp_path: Path) -> None:
    file = tmp_path / "my weights.pt"
    file.write_bytes(b"weights")
    plan = Plan({"init": f"'ptlvsm={file}'"})
    adopted = [run for run in plan.runs() if run.adopted]
    assert [(run.name, run.adopted) for run in adopted] == [("ptlvsm", str(file))]
    assert any(run.data == "rooms-full-my_weights" for run in plan.runs())


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"init": "nothing"}, ["init=nothing", "RUN=FILE"]),
        ({"init": "uplvsm=/nowhere.pt"}, ["/nowhere.pt", "no file"]),
        ({"init": "nerf=/nowhere.pt"}, ["uplvsm, ptlvsm"]),
        ({"init": "lact_obj_res256"}, ["lact_obj_res256", "uplvsm"]),
        ({"init": "vgg16"}, ["vgg16", "no checkpoint"]),
        ({"init": "uplvsm_x224 uplvsm_x518"}, ["two checkpoints", "uplvsm"]),
        ({"init": "'open"}, ["init", "quote"]),
    ],
)
def test_a_wrong_init_is_one_line(config: dict[str, str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        Plan({"scale": "paper", **config})
    assert "\n" not in str(caught.value) and all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"models": ["ptlvsm", "nerf"]}, ["'nerf'", "ptlvsm_l2"]),
        ({"models": ["ptlvsm", "ptlvsm"]}, ["models", "once"]),
        ({"models": []}, ["models", "at least one"]),
        ({"models": ["PT-LVSM"]}, ["PT-LVSM", "small letters"]),
        ({"variants": {"uplvsm": {"model": "ptlvsm"}}}, ["variants.uplvsm", "name of a model"]),
        ({"variants": {"ptlvsm_l2": {"train": []}}}, ["study/made.yaml", "model"]),
        ({"phases": ["pretrain", "pretrain"]}, ["phases", "once"]),
        ({"phases": ["pretrain", "wide"]}, ["wide"]),
        ({"subsets": {"demo": ["tiny"]}}, ["subsets.demo", "'tiny'", "little"]),
        ({"subsets": {"demo": []}}, ["subsets.demo", "at least one"]),
        ({"model": ["ptlvsm"]}, ["made.yaml", "model"]),
        ({"overrides": {"train": ["views.image_size=56"]}}, ["share the resolution 56"]),
    ],
)
def test_a_wrong_study_is_one_line(conf: Path, changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        made(conf, **changes)
    assert "\n" not in str(caught.value) and all(word in str(caught.value) for word in words), caught.value


def test_every_study_of_the_project_loads() -> None:
    for path in (conf_dir() / "study").glob("*.yaml"):
        assert load_study(path.stem).name == path.stem


def test_a_scale_may_have_runs_of_its_own_and_a_variant_its_own_size_recipe_and_phases(conf: Path) -> None:
    data = MADE["data"] | {"mini": {"source": "rooms_mini", "dataset": "rooms-mini", "eval": "rooms_mini"}}
    variants = {
        "lact_many": {"model": "lact", "recipe": "lact_views"},
        "splats": {"model": "depthsplat", "size": "depthsplat_mv", "recipe": "depthsplat_mv", "phases": ["pretrain"]},
    }
    own: dict[str, Any] = {"variants": variants, "models": ["ptlvsm"], "data": data}
    own["models_at"] = {"mini": ["lact_many", "splats"]}
    assert {run.name for run in made(conf, **own).runs()} == {"ptlvsm"}
    plan = made(conf, {"scale": "mini"}, **own)
    assert [(run.name, run.phase) for run in plan.runs()] == [
        ("lact_many", "pretrain"),
        ("lact_many", "finetune"),
        ("splats", "pretrain"),
    ]
    assert plan.composed("train", "lact_many", "finetune").views.num_context == 8
    splats = plan.composed("train", "splats", "pretrain")
    assert (splats.variant, splats.model.dino.depth, splats.train.steps) == ("splats", 4, 1600)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models_at": {"paper": ["ptlvsm"]}}, r"models_at\.paper: no such scale in data; choose one of demo"),
        ({"models_at": {"demo": ["nothing"]}}, "'nothing' is neither a model nor a variant"),
        ({"models_at": {"demo": []}}, r"models_at\.demo: name each once, and at least one; found \[\]"),
        ({"models_at": {"demo": ["ptlvsm", "ptlvsm"]}}, r"models_at\.demo: name each once"),
        (
            {"variants": {"ptlvsm_l2": {"model": "ptlvsm", "phases": ["finetune"]}}},
            r"variants\.ptlvsm_l2\.phases: give the first of \['pretrain', 'finetune'\]; found \['finetune'\]",
        ),
    ],
)
def test_mistakes_in_runs_of_a_scale_are_one_line(conf: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(conf, **changes)


@pytest.mark.parametrize("name", ["Gärten", 'a"b', "a b", "../x", ".hidden", "-x", "a'b", "日本", "a/b"])
def test_a_name_that_is_no_folder_is_told_before_hydra_reads_it(name: str) -> None:
    told = "names a folder; use the letters a to z, digits"
    with pytest.raises(ConfigError, match=re.escape(f"--config name={name}: {told}")):
        Plan({"study": "photos", "path": "somewhere", "name": name})
    with pytest.raises(ConfigError, match=re.escape(f"dataset={name}: {told}")):
        compose("preprocess", [f"dataset={name}"])


def test_a_source_without_cameras_is_refused_for_models_that_need_some() -> None:
    with pytest.raises(ConfigError, match=r"brings no cameras, and ptlvsm needs them; take study=photos_unposed"):
        Plan({"study": "photos", "source": "unposed", "path": "somewhere"})
    assert Plan({"study": "photos_unposed", "path": "somewhere"}).all
    for node in MODELS.values():
        with torch.device("meta"):
            model = build(node())
        assert node.needs_cameras == (model.needs_context_poses or model.needs_target_poses), node
