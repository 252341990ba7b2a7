"""The demo itself, at its full size, against what it promises; minutes long, so run by `make test-all`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WIDE = ("gap18", "gap23")
BASELINES = ("nearest_context", "mean_context", "mean_colour")

Means = dict[tuple[str, str, str], float]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished demo, with its report."""
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
    folder = demo / f"results/demo/models/{model}/rooms-full/finetune-x126/evaluation"
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
