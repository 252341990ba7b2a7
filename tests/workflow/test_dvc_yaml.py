"""dvc.yaml against the plan it is generated from: stages, dependencies, outputs, parameters, plots, models."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dvc_yaml import config_files, main, render
from exchange import showcase
from novelview.config.plan import Plan

ROOT = Path(__file__).parents[2]
STAGES = ["download", "preprocess", "pretrain", "finetune", "evaluate", "showcase", "figures", "provenance"]


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan({})


@pytest.fixture(scope="module")
def stages() -> dict[str, dict]:
    return yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def paths(entries: list) -> list[str]:
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def test_the_shipped_file_is_what_the_plan_says(plan: Plan) -> None:
    assert (ROOT / "dvc.yaml").read_text() == render(plan), "run `make docs`"


def test_every_stage_calls_the_rule_of_its_name(stages: dict[str, dict]) -> None:
    assert list(stages) == STAGES
    targets = {name: stage["cmd"].removeprefix("snakemake --cores all").strip() for name, stage in stages.items()}
    rules = (ROOT / "Snakefile").read_text() + "".join(path.read_text() for path in ROOT.glob("workflow/rules/*.smk"))
    for name in STAGES[:-2]:
        assert targets[name] == name and f"rule {name}:\n" in rules
    assert targets["figures"] == "" and targets["provenance"] == "test -d .snakemake/metadata"


def test_outputs_survive_a_run_and_no_stage_is_frozen(stages: dict[str, dict]) -> None:
    for stage in stages.values():
        assert not stage.get("frozen")
        for entry in [*stage["outs"], *stage.get("metrics", [])]:
            assert next(iter(entry.values()))["persist"] is True


def test_every_file_of_the_plan_is_shipped_once(plan: Plan, stages: dict[str, dict]) -> None:
    outs = [path for stage in stages.values() for path in paths(stage["outs"] + stage.get("metrics", []))]
    assert len(set(outs)) == len(outs)
    names = ("train.csv", "config.yaml", "evaluation", "metrics.json")
    results = {f"{run.folder}/{name}" for run in plan.runs() for name in names}
    results |= {run.weights for run in plan.runs()} | {
        f"{plan.results}/{name}" for name in ("figures", "tables", "report")
    }
    shown = showcase(plan)  # released checkpoints, beside the plan's own
    results |= {*shown.folders, *(shown.metrics(one.name) for one in shown.checkpoints)}
    results |= {f"data/{name}/{kind}" for name in shown.datasets for kind in ("raw", "packed")}
    assert set(outs) == results | {"data/rooms/raw", "data/rooms/packed", ".snakemake/metadata"}


def test_a_stage_depends_on_what_others_make_and_on_its_code(stages: dict[str, dict]) -> None:
    made: set[str] = set()
    for name, stage in stages.items():
        needed = {path for path in paths(stage["deps"]) if path.startswith(("data/", "results/"))}
        assert needed <= made, name
        made |= set(paths(stage["outs"] + stage.get("metrics", [])))
        code = {path for path in paths(stage["deps"]) if path not in needed}
        assert all((ROOT / path).exists() for path in code) and ("Snakefile" in code) == (name != "provenance")
    assert "src/novelview/models" in stages["evaluate"]["deps"]
    assert "src/novelview/models" not in stages["figures"]["deps"]


def test_parameters_name_every_configuration_file_that_is_read(plan: Plan, stages: dict[str, dict]) -> None:
    for name, phase in (("pretrain", "pretrain"), ("finetune", "finetune")):
        listed = paths(stages[name]["params"])
        assert "conf/study/less3depend.yaml" in listed and not any("runtime" in path for path in listed)
        for run in (run for run in plan.runs() if run.phase == phase):
            read = config_files("train", plan.overrides("train", run.name, phase))
            assert {f"recipes.demo.{phase}", "sizes.demo"} <= set(read[f"models/{run.model}.yaml"] or ())
            assert {f"conf/{path}" for path in read} <= set(listed)
    assert "conf/eval/rooms.yaml" in paths(stages["evaluate"]["params"])
    assert "conf/source/rooms.yaml" in paths(stages["download"]["params"])


def test_metrics_are_kept_in_git_and_everything_else_is_not(stages: dict[str, dict]) -> None:
    metrics = paths(stages["evaluate"]["metrics"])
    assert all(
        entry[path]["cache"] is False for entry, path in zip(stages["evaluate"]["metrics"], metrics, strict=True)
    )
    kept = [path for stage in stages.values() for path in paths(stage["outs"])]
    # A folder that exists is not ignored itself, so that git looks inside for metrics.json: its files are.
    outs = [path if Path(path).suffix else f"{path}/anything" for path in kept]
    asked = subprocess.run(
        ["git", "check-ignore", "--no-index", *metrics, *outs], cwd=ROOT, capture_output=True, text=True
    )
    assert set(asked.stdout.split()) == set(outs)


def test_another_study_has_stages_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study=lvsm", "scale=mini"]) == 0
    content = yaml.safe_load(capsys.readouterr().out)
    assert content["stages"]["evaluate"]["cmd"] == "snakemake --cores all evaluate --config study=lvsm scale=mini"
    assert "finetune" not in content["stages"]  # this study trains in one phase
    assert "results/mini/lvsm/report" in paths(content["stages"]["figures"]["outs"])


def test_a_wrong_word_is_one_line() -> None:
    command = [sys.executable, "tools/dvc_yaml.py", "study=nerf"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2 and done.stderr.startswith("error: study 'nerf'") and done.stderr.count("\n") == 1
