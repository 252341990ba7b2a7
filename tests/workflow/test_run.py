"""The DAG really run, with everything tiny: whole study, nothing to do, exact reruns, resume after a kill, report."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

from checkout import Checkout


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
