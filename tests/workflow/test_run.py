"""The DAG really run, with everything tiny: whole study, nothing to do, exact reruns, resume after a kill, report."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TINY = (
    "source.train_scenes=3 source.test_seen_scenes=2 source.test_new_scenes=1 source.frames=12 source.height=36"
    " source.width=64 source.gaps=[6,9] views.image_size=28 views.min_frame_dist=7 views.max_frame_dist=11"
    " train.steps=6 train.warmup=1 train.batch_size=2 eval.splits=[full,gap6,gap9] eval.bootstrap=20 eval.gallery=2"
    " eval.video_frames=3 eval.video_scenes=1 eval.pose_scenes=1 runtime.wandb=disabled runtime.log_every=2"
    " runtime.progress=false runtime.checkpoint_seconds=0"
)
ALL = {
    *("download_source", "pack_scenes", "pretrain_model", "finetune_model", "evaluate_model"),
    *("draw_figure", "write_table", "write_report"),
}
AFTER_TRAINING = {"evaluate_model", "draw_figure", "write_table", "write_report"}


class Checkout:
    """A copy of the project's tracked files, run in place."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
        for name in filter(None, names.split("\0")):
            if not name.startswith(("tests/", "docs/")):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        # Both phases must differ in size, and this study's finetuning would set 126.
        for model in ("uplvsm", "ptlvsm"):
            recipe = folder / f"conf/recipe/demo/{model}/finetune.yaml"
            recipe.write_text(recipe.read_text().replace("image_size: 126", "image_size: 42"))
            recipe = folder / f"conf/recipe/demo/{model}/pretrain.yaml"
            recipe.write_text(recipe.read_text().replace("image_size: 56", "image_size: 28"))

    def command(self, *arguments: str, more: str = "") -> list[str]:
        settings = TINY.replace(" views.image_size=28", "") + f" {more}"
        return [sys.executable, "-m", "snakemake", "--cores", "2", *arguments, "--config", f"set={settings}"]

    def run(self, *arguments: str, more: str = "") -> set[str]:
        """Run Snakemake; return the rules that ran, or would run."""
        done = subprocess.run(self.command(*arguments, more=more), cwd=self.folder, capture_output=True, text=True)
        output = done.stdout + done.stderr
        assert done.returncode == 0, output[-6000:]
        found = re.findall(r"^(\w+) +\d+$", output.partition("Job stats:")[2], re.MULTILINE)
        return set(found) & ALL

    def weights(self) -> dict[str, bytes]:
        """Return the bytes of all final weights by path."""
        paths = sorted((self.folder / "results").rglob("model.safetensors"))
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    checkout = Checkout(tmp_path_factory.mktemp("checkout"))
    assert checkout.run() == ALL
    return checkout


def test_the_report_stands_alone(finished: Checkout) -> None:
    page = (finished.folder / "results/demo/less3depend/report/index.html").read_text()
    assert "blurry" in page and "data:video/mp4;base64," in page
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)[^\"]+\"", page)
    assert str(finished.folder) not in page


def test_snakemake_writes_its_own_report(finished: Checkout) -> None:
    finished.run("--report", "own.html")
    page = (finished.folder / "own.html").read_text()
    assert all(caption in page for caption in ("marked red", "Sim(3) alignment", "Every score"))


def test_a_second_run_does_nothing(finished: Checkout) -> None:
    assert finished.run("-n") == set()


def test_deleting_one_figure_redraws_one(finished: Checkout) -> None:
    (finished.folder / "results/demo/less3depend/figures/gaps.png").unlink()
    assert finished.run("-n", "figures") == {"draw_figure"}
    finished.run("figures")
    assert finished.run("-n", "figures") == set()


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("runtime.log_every=1 runtime.cache_mb=9", set()),
        ("eval.bootstrap=21", AFTER_TRAINING),
        ("train.lr=0.0011", AFTER_TRAINING | {"pretrain_model", "finetune_model"}),
        ("pack.max_bad_frames=1", ALL - {"download_source"}),
        ("source.seed=5", ALL),
    ],
)
def test_a_changed_key_reruns_what_reads_it(finished: Checkout, more: str, expected: set[str]) -> None:
    assert finished.run("-n", more=more) == expected


def test_a_code_edit_reruns_the_stages_that_contain_it(finished: Checkout) -> None:
    edited = finished.folder / "src/novelview/evaluation/baselines.py"
    before = edited.read_text()
    edited.write_text("# a remark alone changes nothing\n" + before)
    assert finished.run("-n") == set()
    edited.write_text(before + "\nEXTRA = 1\n")
    assert finished.run("-n") == AFTER_TRAINING
    edited.write_text(before)
    assert finished.run("-n") == set()


def test_killed_and_resumed_training_ends_in_the_same_bytes(finished: Checkout, tmp_path: Path) -> None:
    undisturbed = finished.weights()
    other = Checkout(tmp_path / "killed")
    process = subprocess.Popen(
        other.command("pretrain"),
        cwd=other.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    deadline = time.monotonic() + 240
    while not list((other.folder / "checkpoints").rglob("*.pt")):
        assert process.poll() is None and time.monotonic() < deadline, "training ended or never saved a state"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    subprocess.run(other.command("--unlock"), cwd=other.folder, check=True, capture_output=True)
    other.run("pretrain")
    ours = other.weights()
    assert len(ours) == 2
    assert all(undisturbed[name] == content for name, content in ours.items())
