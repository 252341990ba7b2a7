"""Released checkpoints by name in `--config init=...`: which run and phase they stand for, and what does not fit."""

import shutil
from pathlib import Path

import pytest

import exchange
from dvc_yaml import pipeline
from novelview.config.compose import compose
from novelview.config.digest import resolved
from novelview.config.plan import Plan
from novelview.errors import ConfigError
from novelview.files import sha256
from novelview.models.exchange import compact
from novelview.models.registry import build, save_weights

MADE = {"mine": [], "narrow": ["model.n_layer=1"], "larger": ["views.image_size=144"]}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose released/ has `mine`, a PT-LVSM of the demo's, and others that differ in one key."""
    root = tmp_path_factory.mktemp("init")
    for name, words in MADE.items():
        config = compose("train", ["model=ptlvsm", "phase=finetune", "dataset=rooms-mini", *words])
        save_weights(root / "weights.safetensors", build(config.model), resolved(config))
        out = root / "released" / name / "model.safetensors"
        compact(root / "weights.safetensors", [], name, out)
        out.with_name("README.md").write_text(sha256(out))
    return root


@pytest.fixture(autouse=True)
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a copy of that folder."""
    monkeypatch.chdir(shutil.copytree(made, tmp_path / "here"))


def runs(init: str, **config: str) -> list[tuple[str, str, str, str, str]]:
    plan = Plan({"init": init, **config})
    exchange.check_adopted(plan)
    found = [run for run in plan.runs() if run.name == "ptlvsm"]
    return [(run.phase, run.res, run.data, run.start, run.adopted) for run in found]


def test_a_name_stands_for_the_phase_of_its_header() -> None:
    weights = "released/mine/model.safetensors"
    assert runs("mine") == [("finetune", "112", "rooms-published", "", weights)]
    plan = Plan({"init": "mine"})
    words = exchange.adoption_words(plan, next(run for run in plan.runs() if run.adopted))
    assert "dataset=rooms-mini" in words and f"file={weights}" in words and "phase=finetune" in words


def test_it_can_be_the_start_of_another_phase() -> None:
    published = "results/demo/models/ptlvsm/published/pretrain-x64/model.safetensors"
    expected = [
        ("pretrain", "64", "rooms-published", "", "released/mine/model.safetensors"),
        ("finetune", "112", "rooms-full-mine", published, ""),
    ]
    assert runs("ptlvsm/pretrain=mine") == expected
    by_path = runs("ptlvsm/pretrain=released/mine/model.safetensors")
    assert [run[-1] for run in by_path] == [run[-1] for run in expected]


@pytest.mark.parametrize(
    ("init", "config", "line"),
    [
        ("narrow", {}, "not of ptlvsm at scale demo (model.n_layer is 1 there and"),
        ("mine", {"study": "lvsm"}, "init=mine: is ptlvsm, finetune; this study has lvsm_decoder_only"),
        ("larger", {}, "is at 144 px, ptlvsm at 112"),
        ("uplvsm=mine", {}, "not of uplvsm at scale demo"),
        ("yours", {}, "not one of"),
    ],
)
def test_what_does_not_fit_is_one_line(init: str, config: dict[str, str], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        runs(init, **config)
    assert line in str(caught.value) and "\n" not in str(caught.value)


def test_dvc_ships_what_the_demo_makes_of_them() -> None:
    stages = pipeline(Plan({}))["stages"]
    weights = {f"released/{name}/model.safetensors" for name in MADE}
    assert weights <= set(stages["showcase"]["deps"])
    made = [name for out in stages["showcase"]["outs"] for name in out]
    folders = {f"results/demo/showcase/{name}/evaluation" for name in MADE}
    assert {*folders, "data/rooms-showcase/raw", "data/rooms-showcase/packed"} == set(made)
    assert folders <= set(stages["figures"]["deps"])
    assert "showcase" not in pipeline(Plan({"study": "lvsm"}))["stages"]
    shutil.rmtree("released")
    assert "showcase" not in pipeline(Plan({}))["stages"]


def test_a_damaged_one_is_refused_by_name() -> None:
    path = Path("released/mine/model.safetensors")
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ConfigError, match=r"damaged.*git checkout released/mine"):
        runs("mine")
