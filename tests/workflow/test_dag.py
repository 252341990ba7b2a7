"""The DAG as Snakemake plans it: one command, single stages by name, mistakes as one line, exact reruns."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from import_samples import nerf, picture
from planned_jobs import configurations

ROOT = Path(__file__).parents[2]
RULES = {
    "download_source": 1,
    "pack_scenes": 1,
    "pretrain_model": 5,
    "finetune_model": 4,
    "evaluate_model": 9,
    "draw_figure": 6,
    "write_table": 2,
    "write_report": 1,
}
RELEASING = ("adopt_model", "compact_model", "release_model")
RULE = re.compile(r"^rule (\w+):\n(.*?)(?=^\S|\Z)", re.MULTILINE | re.DOTALL)


def snakemake(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--directory", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def planned(done: subprocess.CompletedProcess) -> dict[str, int]:
    assert done.returncode == 0, done.stdout + done.stderr
    _, _, stats = (done.stdout + done.stderr).partition("Job stats:")
    found = re.findall(r"^(\w+) +(\d+)$", stats, re.MULTILINE)
    return {name: int(count) for name, count in found if name in RULES}


def test_an_empty_folder_plans_the_whole_study(tmp_path: Path) -> None:
    assert planned(snakemake(tmp_path, "-n")) == RULES


@pytest.mark.parametrize(
    ("target", "last"),
    [
        ("download", "download_source"),
        ("preprocess", "pack_scenes"),
        ("pretrain", "pretrain_model"),
        ("finetune", "finetune_model"),
        ("evaluate", "evaluate_model"),
        ("figures", "write_table"),
    ],
)
def test_a_single_stage_is_called_by_its_name(tmp_path: Path, target: str, last: str) -> None:
    names = list(RULES)
    wanted = {name: RULES[name] for name in names[: names.index(last) + 1]}
    if target == "finetune":
        wanted["pretrain_model"] = RULES["finetune_model"]  # DepthSplat has one phase
    assert planned(snakemake(tmp_path, "-n", target)) == wanted


@pytest.mark.parametrize("change", ["picture", "lens", "another", "gone"])
def test_a_source_that_changed_is_read_again(tmp_path: Path, change: str) -> None:
    source = nerf(tmp_path / "in", 12)
    call = ["--cores", "1", "--config", "study=photos_posed", "source=transforms", f"path={source}"]
    assert snakemake(tmp_path, *call, "--", "download").returncode == 0
    assert planned(snakemake(tmp_path, "-n", *call, "--", "download")) == {}
    if change == "picture":
        picture(source / "images" / "img3.png", 99)
    elif change == "lens":
        text = (source / "transforms.json").read_text()
        (source / "transforms.json").write_text(text.replace('"fl_x": 50.0', '"fl_x": 51.0'))
    elif change == "another":
        picture(source / "images" / "new.png")
    else:  # someone else's machine, where the data came by `dvc pull`
        source.rename(tmp_path / "elsewhere")
    done = snakemake(tmp_path, "-n", *call, "--", "preprocess")
    assert planned(done) == ({"pack_scenes": 1} if change == "gone" else {"download_source": 1, "pack_scenes": 1})
    assert ("changed since" in done.stderr) == (change != "gone")


def test_estimated_cameras_are_a_data_set_and_an_evaluation_more(tmp_path: Path) -> None:
    done = snakemake(tmp_path, "-n", "--config", "study=posefree")
    found = planned(done)
    assert (found["download_source"], found["pack_scenes"], found["pretrain_model"], found["evaluate_model"]) == (
        1,
        2,
        3,
        5,
    )
    output = done.stdout + done.stderr
    (estimation,) = configurations(output, tmp_path, "poses")
    assert (estimation["scale"], estimation["poses"]["kind"], estimation["dataset"]) == (
        "demo",
        "colmap",
        "rooms-textured",
    )
    evaluations = configurations(output, tmp_path, "evaluate")
    assert [one["dataset"] for one in evaluations].count("rooms-textured-colmap") == 2
    alone = planned(snakemake(tmp_path, "-n", "poses", "--config", "study=posefree"))
    assert alone == {"download_source": 1}  # and estimate_poses, which other studies lack


def test_photographs_are_a_study_of_their_own(tmp_path: Path) -> None:
    done = snakemake(tmp_path, "-n", "--config", "study=photos", "source=transforms", "path=somewhere", "name=garden")
    assert planned(done)["evaluate_model"] == 4
    assert "data/garden/packed" in done.stdout + done.stderr
    assert "results/demo/photos-garden/report/index.html" in done.stdout + done.stderr


def test_the_whole_paper_is_planned_with_its_cost_and_without_its_data(tmp_path: Path) -> None:
    done = snakemake(tmp_path, "-n", "--config", "scale=paper", "study=less3depend")
    assert planned(done) == RULES | {
        **{"pretrain_model": 8, "finetune_model": 8, "evaluate_model": 16},
        **{"draw_figure": 7, "write_table": 3},
    }
    for subset in ("little", "medium", "large", "full"):
        assert (
            f"results/paper/models/uplvsm/re10k-{subset}/finetune-x518/model.safetensors" in done.stdout + done.stderr
        )
    assert done.stderr.count("Plan of study less3depend at scale paper") == 1
    assert re.search(r"pretrain +8 +0 +[\d,]+ ~", done.stderr) and "535.5 GiB" in done.stderr


def test_the_plan_is_a_target_of_its_own(tmp_path: Path) -> None:
    done = snakemake(
        tmp_path, "-c1", "plan", "--config", "scale=paper", "study=scaling", "set=train.steps=7 train.lr=1"
    )
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count("Plan of study scaling at scale paper") == 1


def test_the_ladder_trains_each_model_on_each_subset_and_draws_the_slopes(tmp_path: Path) -> None:
    done = snakemake(tmp_path, "-n", "--config", "study=scaling")
    counts = planned(done)
    assert (counts["pretrain_model"], counts["evaluate_model"], counts.get("finetune_model")) == (12, 12, None)
    assert "results/demo/scaling/figures/scaling.png" in done.stdout + done.stderr
    assert "Plan of study" not in done.stderr
    assert "results/demo/models/ptlvsm/rooms-ladder-medium/pretrain-x64/model.safetensors" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (["set=model.widht=3"], ["model.widht"]),
        (["set=train.lr=fast"], ["train.lr", "fast"]),
        (["set=nonsense"], ["nonsense"]),
        (["set=views.image_size=57"], ["views.image_size=57"]),
        (["set=eval.splits=small"], ["eval.splits"]),
        (["study=nerf"], ["nerf", "less3depend"]),
        (["scale=huge"], ["huge", "demo"]),
        (["colour=red"], ["colour"]),
        (["source=video"], ["video"]),
        (["study=photos", "source=photos", "path=.", "name=my garden"], ["name=my garden"]),
        (["study=photos", "source=photos"], ["source=photos", "path=FOLDER"]),
        (["set=train.steps='3"], ["quote"]),
    ],
)
def test_a_mistake_fails_the_dry_run_with_one_line(tmp_path: Path, config: list[str], words: list[str]) -> None:
    done = snakemake(tmp_path, "-n", "--config", *config)
    assert done.returncode != 0
    own = ("Using workflow specific profile", "Config file ")  # what Snakemake says of itself
    errors = [line for line in done.stderr.splitlines() if not line.startswith(own)]
    assert len(errors) == 1 and errors[0].startswith("error: "), done.stderr
    assert all(word in errors[0] for word in words), errors[0]


def test_lint_finds_nothing() -> None:
    done = subprocess.run([sys.executable, "-m", "snakemake", "--lint"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "Congratulations" in done.stdout + done.stderr, done.stdout + done.stderr


def test_only_rules_that_can_go_on_are_tried_again() -> None:
    """What a second call goes on with follows `--retries`; what would fail in the same way again says 0."""
    rules = (ROOT / "workflow/rules").glob("*.smk")
    named = dict(pair for path in rules for pair in RULE.findall(path.read_text()))
    never = {name for name, text in named.items() if "    retries: 0\n" in text}
    assert never == {"draw_figure", "write_table", "write_report", "measure_latency", *RELEASING}
    assert {"pretrain_model", "evaluate_model", "pack_scenes", "download_source"} <= set(named) - never
