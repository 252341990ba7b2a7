"""One edit after another in a clone that pulled a finished study: each reruns exactly the jobs named here."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from checkout import Checkout

Edit = Callable[[str], str]

MODELS = ("uplvsm", "ptlvsm")
PHASES = {28: "pretrain", 42: "finetune"}


def results(model: str, size: int, *names: str) -> set[str]:
    return {f"models/{model}/rooms-full/{PHASES[size]}-x{size}/{name}" for name in names}


RAW, PACKED = {"data/rooms/raw"}, {"data/rooms/packed"}
SMALL, LARGE = ({model: results(model, size, "model.safetensors") for model in MODELS} for size in (28, 42))
TRAINED = {*SMALL["uplvsm"], *SMALL["ptlvsm"], *LARGE["uplvsm"], *LARGE["ptlvsm"]}
JUDGED = {(model, size): results(model, size, "evaluation") for model in MODELS for size in (28, 42)}
ALL_JUDGED = {name for names in JUDGED.values() for name in names}
DRAWN = {
    f"less3depend/figures/{name}"
    for name in ("training_curves", "qualitative", "attention", "camera_paths", "transfer", "gaps")
}
WRITTEN = DRAWN | {"less3depend/tables/results_table", "less3depend/tables/transfer_table"}
REPORT = {"less3depend/report/index.html"}
AFTER_TRAINING = ALL_JUDGED | WRITTEN | REPORT


def appended(text: str) -> Edit:
    return lambda before: before + text


def replaced(old: str, new: str) -> Edit:
    def edit(before: str) -> str:
        assert old in before
        return before.replace(old, new)

    return edit


def steps_of(phase: str, old: int, new: int) -> Edit:
    """Return the edit of a model's file that gives the recipe of a phase at scale demo another number of steps."""

    def edit(before: str) -> str:
        content = yaml.safe_load(before)
        recipe = content["recipes"]["demo"][phase]["train"]
        assert recipe["steps"] == old
        recipe["steps"] = new
        return yaml.safe_dump(content)

    return edit


@pytest.fixture(scope="module")
def pulled(author: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A clone of the author's repository, with all results."""
    return author.pulled(tmp_path_factory.mktemp("clone") / "novelview")


CODE = appended("\nEXTRA = 1\n")
REMARK = appended("\n# a remark alone changes nothing\n")
QUICK = (
    ("conf/runtime/demo.yaml", replaced("log_every: 2", "log_every: 1"), set()),
    ("src/novelview/models/uplvsm.py", REMARK, set()),
    ("conf/workflow.yaml", replaced("mem_mb: 4000, gpu: 0, cpus", "mem_mb: 5000, gpu: 0, cpus"), set()),
    ("conf/models/ptlvsm.yaml", steps_of("finetune", 6, 7), LARGE["ptlvsm"] | JUDGED["ptlvsm", 42] | WRITTEN | REPORT),
    ("conf/eval/rooms.yaml", replaced("bootstrap: 20", "bootstrap: 21"), AFTER_TRAINING),
    ("src/novelview/evaluation/protocol.py", CODE, AFTER_TRAINING),
    ("src/novelview/figures/report.py", CODE, REPORT),
    ("src/novelview/training/watch.py", CODE, set()),
)
MORE = (
    ("conf/models/ptlvsm.yaml", REMARK, set()),
    ("src/novelview/models/ptlvsm.py", lambda before: before.replace('"""', '"""Told otherwise: ', 1), set()),
    ("conf/source/rooms.yaml", appended("seed: 5\n"), RAW | PACKED | TRAINED | AFTER_TRAINING),
    ("conf/stage/preprocess.yaml", appended("pack: {max_bad_frames: 1}\n"), PACKED | TRAINED | AFTER_TRAINING),
    (
        "conf/models/uplvsm.yaml",
        steps_of("pretrain", 6, 7),
        SMALL["uplvsm"] | LARGE["uplvsm"] | JUDGED["uplvsm", 28] | JUDGED["uplvsm", 42] | WRITTEN | REPORT,
    ),
    (
        "conf/models/ptlvsm.yaml",
        replaced("init_gain: 5.0", "init_gain: 4.0"),
        SMALL["ptlvsm"] | LARGE["ptlvsm"] | JUDGED["ptlvsm", 28] | JUDGED["ptlvsm", 42] | WRITTEN | REPORT,
    ),
    ("conf/workflow.yaml", replaced("set: {}", "set: {train.lr: 0.0011}"), TRAINED | AFTER_TRAINING),
    ("conf/study/less3depend.yaml", replaced("novel views", "New views"), WRITTEN | REPORT),
    ("src/novelview/scenes/procedural/layout.py", CODE, RAW | PACKED | TRAINED | AFTER_TRAINING),
    ("src/novelview/scenes/pack.py", CODE, PACKED | TRAINED | AFTER_TRAINING),
    ("src/novelview/training/optim.py", CODE, TRAINED | AFTER_TRAINING),
    (
        "src/novelview/models/ptlvsm.py",
        CODE,
        SMALL["ptlvsm"] | LARGE["ptlvsm"] | JUDGED["ptlvsm", 28] | JUDGED["ptlvsm", 42] | WRITTEN | REPORT,
    ),
    ("src/novelview/models/lact.py", CODE, set()),
    ("src/novelview/figures/plots.py", CODE, WRITTEN | REPORT),
    ("workflow/rules/figures.smk", replaced("stages.report --config", "stages.report  --config"), REPORT),
    (
        "workflow/rules/data.smk",
        replaced("stages.preprocess --config", "stages.preprocess  --config"),
        PACKED | TRAINED | AFTER_TRAINING,
    ),
    ("data/rooms/raw/manifest.json", appended("\n"), PACKED | TRAINED | AFTER_TRAINING),
    ("data/rooms/packed/manifest.json", appended("\n"), TRAINED | AFTER_TRAINING),
)


def check(pulled: Checkout, name: str, edit: Edit, expected: set[str]) -> None:
    """Edit one file, compare what would run with what is expected, and undo the edit."""
    path = pulled.path(name)
    before = path.read_text()
    path.write_text(edit(before))
    try:
        assert pulled.plans() == expected
    finally:
        path.write_text(before)


@pytest.mark.parametrize(("name", "edit", "expected"), QUICK, ids=[name for name, *_ in QUICK])
def test_an_edit_reruns_exactly(pulled: Checkout, name: str, edit: Edit, expected: set[str]) -> None:
    check(pulled, name, edit, expected)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "edit", "expected"), MORE, ids=[name for name, *_ in MORE])
def test_more_edits_rerun_exactly(pulled: Checkout, name: str, edit: Edit, expected: set[str]) -> None:
    check(pulled, name, edit, expected)


@pytest.mark.parametrize(
    ("more", "expected"), [("runtime.cache_mb=9", set()), ("train.lr=0.0011", TRAINED | AFTER_TRAINING)]
)
def test_a_key_given_by_hand_reruns_exactly(pulled: Checkout, more: str, expected: set[str]) -> None:
    assert pulled.plans(more=more) == expected


def test_what_other_code_made_can_be_kept_and_is_told(pulled: Checkout) -> None:
    path = pulled.path("src/novelview/training/optim.py")
    before = path.read_text()
    path.write_text(CODE(before))
    try:
        said = pulled.call(*pulled.command("-n", "--config", "code=keep"))
        assert pulled.plans(more="runtime.code=keep train.lr=0.0011") == TRAINED | AFTER_TRAINING
    finally:
        path.write_text(before)
    kept = [f"results/demo/{Path(name).parent}" for name in sorted(TRAINED)]
    assert "Nothing to be done" in said and all(folder in said for folder in kept) and "data/rooms/raw" not in said
    assert "other code made" not in pulled.call(*pulled.command("-n", "--config", "code=keep"))


@pytest.mark.parametrize("name", ["raw/train/000000.torch", "raw/indices/gap6.json"])
def test_a_changed_file_behind_an_unchanged_manifest_is_told(pulled: Checkout, name: str) -> None:
    """Snakemake knows a data folder by its manifest, so nothing is rerun; whoever plans must hear of it."""
    path = pulled.path(f"data/rooms/{name}")
    before = path.read_bytes()
    path.write_bytes(before[:-9] + bytes([before[-9] ^ 1]) + before[-8:])
    try:
        said = pulled.call(*pulled.command("-n"))
    finally:
        path.write_bytes(before)
    assert "Nothing to be done" in said and f"warning: data/rooms/{name} was changed" in said
    assert "warning: data" not in pulled.call(*pulled.command("-n"))


@pytest.mark.slow
def test_undone_edits_leave_nothing_to_do(pulled: Checkout) -> None:
    assert pulled.plans() == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("deleted", "expected"),
    [
        ("less3depend/figures/gaps.png", {"less3depend/figures/gaps"}),
        ("less3depend/tables/results_table.md", {"less3depend/tables/results_table"}),
    ],
)
def test_a_deleted_picture_or_table_is_made_again_alone(pulled: Checkout, deleted: str, expected: set[str]) -> None:
    path = pulled.path(f"results/demo/{deleted}")
    content = path.read_bytes()
    path.unlink()
    try:
        assert pulled.plans("figures") == expected
        assert pulled.plans() == expected | REPORT
    finally:
        path.write_bytes(content)


@pytest.mark.slow
def test_deleted_results_come_back_when_asked_for(pulled: Checkout, tmp_path: Path) -> None:
    """The report stands without them, as in a light pull, so `all` has nothing to do; their own stages have."""
    checkout = pulled.copy(tmp_path / "other")
    checkout.path(f"results/demo/{next(iter(LARGE['uplvsm']))}").unlink()
    assert checkout.plans("finetune") == LARGE["uplvsm"]
    checkout.path(f"results/demo/{next(iter(JUDGED['uplvsm', 42]))}/summary.json").unlink()
    assert checkout.plans("evaluate") == LARGE["uplvsm"] | JUDGED["uplvsm", 42]
    assert checkout.plans() == set()
    checkout.path("results/demo/less3depend/report/index.html").unlink()
    assert checkout.plans() == LARGE["uplvsm"] | JUDGED["uplvsm", 42] | WRITTEN | REPORT
