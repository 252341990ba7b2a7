"""The demo itself, at its full size, against what it promises; minutes long, so run by `make test-all`. The DAG really
run, with everything tiny: whole study, nothing to do, exact reruns, resume after a kill, report."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from checkout import Checkout

ROOT = Path(__file__).parents[2]
WIDE = ("gap18", "gap23")
BASELINES = ("nearest_context", "mean_context", "mean_colour")

Means = dict[tuple[str, str, str], float]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "-s",
        str(ROOT / "Snakefile"),
        "--directory",
        str(folder),
        "--cores",
        "2",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return folder


def means(demo: Path, model: str) -> Means:
    """Return the mean PSNR by (method, set, split) of a model's last phase."""
    folder = demo / f"results/demo/models/{model}/rooms-full/finetune-x112/evaluation"
    groups = json.loads((folder / "summary.json").read_text())["groups"]
    return {(group["model"], group["set"], group["split"]): group["psnr"]["mean"] for group in groups}


@pytest.mark.slow
@pytest.mark.parametrize("split", WIDE)
def test_posed_targets_beat_every_trivial_baseline(demo: Path, split: str) -> None:
    psnr = means(demo, "ptlvsm")
    assert psnr["ptlvsm", "seen", split] >= max(psnr[name, "seen", split] for name in BASELINES) + 0.5


@pytest.mark.slow
@pytest.mark.parametrize("split", WIDE)
def test_unposed_beats_the_mean_of_the_contexts_and_uses_its_pose(demo: Path, split: str) -> None:
    psnr = means(demo, "uplvsm")
    assert psnr["uplvsm", "seen", split] >= psnr["mean_context", "seen", split] + 0.2
    assert psnr["uplvsm", "seen", split] >= psnr["uplvsm_swapped_pose", "seen", split] + 0.2


@pytest.mark.slow
def test_the_report_is_there(demo: Path) -> None:
    assert "blurry" in (demo / "results/demo/less3depend/report/index.html").read_text()


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
