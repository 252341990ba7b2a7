"""The driver's parts: what is done, what travels, the budget, the table, other data, a bare machine's wheels."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from carry import bare, bundle
from carry.__main__ import main
from carry.call import refuse_other_data, restore_state
from carry.carried import carried, newest
from carry.drive import Budget, Driver, StageFailed
from carry.state import pack
from carry.studies import Mini
from carry.table import peak_of, table
from novelview.errors import DataError


@pytest.fixture
def mini(tmp_path: Path) -> Mini:
    return Mini(tmp_path)


def make(mini: Mini, *names: str) -> None:
    for name in names:
        (mini.root / name).parent.mkdir(parents=True, exist_ok=True)
        (mini.root / name).write_text("{}")


def test_both_studies_share_their_runs(mini: Mini) -> None:
    places = [run.place for run in mini.runs]
    assert len(places) == len(set(places))
    full = {run.name for run in mini.runs if run.subset == "full" and not run.start}
    assert full == {"uplvsm", "ptlvsm", "lvsm_decoder_only", "lact", "depthsplat_mv", "depthsplat_mv_pm"}
    assert {run.subset for run in mini.runs} == {"full", "large", "medium", "little"}
    assert {one.name for one in mini.releases} == {"uplvsm_mini", "ptlvsm_mini", "lvsm_mini", "lact_mini"}
    assert not any(job.done for job in mini.jobs())


def test_weights_that_nothing_reads_any_more_may_be_gone(mini: Mini) -> None:
    first = next(run for run in mini.runs if run.name == "ptlvsm" and not run.start and run.subset == "full")
    last = next(run for run in mini.runs if run.start == first.weights)
    release = next(one for one in mini.releases if one.name == "ptlvsm_mini")
    make(mini, first.weights, f"{first.folder}/evaluation/summary.json")
    assert mini.trained(first) and not mini.is_used_up(first)
    assert mini.root / first.weights in carried(mini)
    make(mini, last.weights, f"{last.folder}/evaluation/summary.json")
    assert not mini.is_used_up(first) and not mini.is_used_up(last)  # the release reads both
    make(mini, f"{release.folder}/published.json", f"{release.place}/evaluation/summary.json")
    assert mini.is_used_up(last) and mini.is_used_up(first)
    travelling = carried(mini)
    assert not {mini.root / first.weights, mini.root / last.weights} & set(travelling)
    for run in (first, last):
        (mini.root / run.weights).unlink()
    assert mini.trained(first) and mini.trained(last)


def test_an_earlier_release_of_the_clone_is_not_taken_for_this_one(mini: Mini) -> None:
    make(mini, "released/ptlvsm_mini/published.json")
    assert not any(mini.released(one) for one in mini.releases)


def test_the_newest_state_of_an_unfinished_training_travels(mini: Mini) -> None:
    run = mini.runs[0]
    folder = mini.checkpoints(run)
    folder.mkdir(parents=True)
    for age, name in enumerate(("a-000000002-x.pt", "a-000000001-x.pt", ".a-000000003.partial.pt")):
        (folder / name).write_text(name)
        os.utime(folder / name, (1000 - age, 1000 - age))
    assert [path.name for path in newest(mini, run)] == ["a-000000002-x.pt"]
    assert [path for path in carried(mini) if path.suffix == ".pt"] == [folder / "a-000000002-x.pt"]
    make(mini, run.weights)
    assert not [path for path in carried(mini) if path.suffix == ".pt"]


def test_no_data_is_asked_for_when_only_pages_are_left(mini: Mini) -> None:
    assert {path.split("/")[2] for path in mini.wanted_data()} == {"raw", "packed", "pointmaps"}
    for run in mini.runs:
        make(mini, run.weights, f"{run.folder}/train.csv")
    assert {path.split("/")[2] for path in mini.wanted_data()} == {"raw", "packed"}
    for plan in mini.plans:
        for one in plan.evaluations:
            make(mini, f"{one.folder}/summary.json", one.metrics)
    for one in mini.releases:
        make(mini, f"{one.folder}/published.json", f"{one.place}/evaluation/summary.json")
    assert mini.wanted_data() == []


def test_the_table_counts_and_measures(mini: Mini) -> None:
    run = mini.runs[0]
    make(mini, run.weights)
    log = mini.root / run.folder / "train.csv"
    log.write_text("step,loss,seconds\n10,1,5.0\n100,1,30.0\n")
    scores = {"new": {"full": {"psnr": 21.25}}, "seen": {"full": {"psnr": 30.0}}}
    (mini.root / run.folder / "metrics.json").write_text(json.dumps(scores))
    text = table(mini, "NVIDIA H200", [{"minutes": 2.0}, {"minutes": 1.5}])
    config = mini.owner[run.weights].composed("train", run.name, run.phase, run.subset)
    images = 100 * config.train.batch_size * (config.views.num_context + config.views.num_target) / 30
    line = next(line for line in text.splitlines() if line.startswith(run.place))
    assert line.split()[1:4] == ["trained", "0.5", f"{images:.0f}"] and "%" in line and line.endswith("21.25")
    assert text.splitlines()[-1] == "2 calls, 3.5 minutes in all, on NVIDIA H200"
    done, left = (sum(one.done is value for one in mini.jobs()) for value in (True, False))
    assert f"all {done} {left}" in [" ".join(line.split()) for line in text.splitlines()]
    assert "%" not in table(mini, "", [])


def test_peaks_are_of_known_devices() -> None:
    assert peak_of("NVIDIA H200") == 989e12 and peak_of("Imaginary 9000") is None and peak_of("") is None


def test_a_budget_keeps_a_reserve() -> None:
    assert Budget(0).stop_at == float("inf") and not Budget(0).over
    assert Budget(9, 1000.0).stop_at == 1000 + 540 - 43.2
    assert Budget(100, 0.0).reserve == 45 and Budget(1, 0.0).reserve == 10 and Budget(1e-6).over


class Ending(Driver):
    """A driver whose snakemake is a small program."""

    program = ""

    def words(self, study: str, targets: Any) -> list[str]:
        return [sys.executable, "-c", self.program, os.environ.get("COUNT", "")]


TWICE = """
import os, sys, pathlib
count = pathlib.Path("count")
number = int(count.read_text()) if count.exists() else 0
count.write_text(str(number + 1))
open(os.environ["NOVELVIEW_ENDINGS"], "a").write("train 4\\n" if number < 2 else "train 0\\n")
sys.exit(number < 2)
"""
FAILS = 'import os, sys; open(os.environ["NOVELVIEW_ENDINGS"], "a").write("train 4\\ntrain 2\\n"); sys.exit(1)'
DIES = "import sys; sys.exit(1)"
STAYS = "import signal, time; signal.signal(signal.SIGUSR1, signal.SIG_IGN); time.sleep(60)"


def driver(mini: Mini, program: str, minutes: float = 0.0) -> Ending:
    made = Ending(mini, Budget(minutes))
    made.program = program
    return made


def test_a_stage_that_ends_in_its_own_box_is_called_again(mini: Mini) -> None:
    assert driver(mini, TWICE).snakemake("mini", ["all"])
    assert (mini.root / "count").read_text() == "3"


@pytest.mark.parametrize("program", [FAILS, DIES])
def test_a_stage_that_fails_is_an_error_whatever_others_did(mini: Mini, program: str) -> None:
    with pytest.raises(StageFailed, match="a stage failed"):
        driver(mini, program).snakemake("mini", ["all"])


def test_what_outstays_the_budget_is_ended(mini: Mini, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carry.drive.LEAST_RESERVE", 0.6)
    assert not driver(mini, STAYS, minutes=0.02).snakemake("mini", ["all"])


def test_after_the_budget_nothing_is_started(mini: Mini) -> None:
    assert not driver(mini, "raise SystemExit(9)", minutes=1e-6).snakemake("mini", ["all"])


MACHINE = {"python": "3.12.1", "torch": "2.13.0", "device": "cpu"}


def test_other_data_is_refused_with_what_differs(mini: Mini) -> None:
    name = mini.data()[0]
    make(mini, name)
    refuse_other_data(mini, {}, MACHINE)
    about = {"data": {name: "0" * 64}, "machine": {**MACHINE, "device": "NVIDIA H200"}}
    with pytest.raises(DataError, match="device NVIDIA H200 there, cpu here") as caught:
        refuse_other_data(mini, about, MACHINE)
    assert name in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(DataError, match="the machine is the same, so the code"):
        refuse_other_data(mini, {**about, "machine": MACHINE}, MACHINE)


def test_a_state_of_other_words_is_refused(mini: Mini, tmp_path: Path) -> None:
    about = {"words": "train.steps=3", "studies": ["mini", "scaling"]}
    pack(tmp_path / "state", tmp_path, [], about)
    with pytest.raises(DataError, match=r"was made with SET='train\.steps=3'"):
        restore_state(mini, tmp_path / "state")


@pytest.mark.parametrize("minutes", ["-1", "nan", "inf"])
def test_budgets_that_are_no_time_are_one_line(minutes: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"--minutes={minutes}"]) == 2
    assert capsys.readouterr().err.startswith("error: --minutes")


# Wheels


def wheel(folder: Path, name: str, files: dict[str, str]) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    meta = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{file},,\n" for file in [*files, *meta, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in {**files, **meta, f"{info}/RECORD": record}.items():
            archive.writestr(file, content)
    return path


def test_a_slim_wheel_installs_without_what_is_left_out(tmp_path: Path) -> None:
    files = {"pandas/__init__.py": "value = 7\n", "pandas/tests/test_x.py": "x = 1\n" * 1000}
    full = wheel(tmp_path / "full", "pandas", files)
    (tmp_path / "bundle").mkdir()
    slim = bundle.slim(full, tmp_path / "bundle" / full.name)
    with zipfile.ZipFile(slim) as archive:
        assert "pandas/tests/test_x.py" not in archive.namelist()
        assert "tests" not in archive.read("pandas-1.0.dist-info/RECORD").decode()
    bare.install(tmp_path / "bundle", tmp_path / "side")
    words = [sys.executable, "-c", "import sys; sys.path.insert(0, sys.argv[1]); import pandas; print(pandas.value)"]
    done = subprocess.run([*words, str(tmp_path / "side")], capture_output=True, text=True)
    assert done.stdout == "7\n", done.stderr


def test_wheels_that_do_not_fit_and_none_at_all_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert bare.main([str(tmp_path / "none"), str(tmp_path / "side"), "--"]) == 2
    assert "make mini-bundle" in capsys.readouterr().err
    path = wheel(tmp_path / "other", "x", {"x.py": ""})
    path.rename(path.with_name("x-1.0-cp27-cp27m-win32.whl"))
    assert bare.main([str(tmp_path / "other"), str(tmp_path / "side"), "--"]) == 2
    error = capsys.readouterr().err.strip()
    assert "do not go into this Python" in error and "\n" not in error


def test_every_wheel_of_the_list_has_a_pin() -> None:
    pins = bundle.pinned(Path(__file__).parents[2] / "constraints.txt")
    assert {bundle.normal(name) for name in bundle.PACKAGES} <= set(pins)
    heavy = {"torch", "triton", "torchvision", "dvc", "wandb", "lpips", "scipy", "av", "pycolmap"}
    assert not heavy & {bundle.normal(name) for name in bundle.PACKAGES}


def test_the_photographs_travel_and_the_library_around_them_does_not() -> None:
    assert bundle.wanted("scikit_image", "skimage/data/coffee.png")
    assert bundle.wanted("scikit_image", "skimage/__init__.py")
    assert not bundle.wanted("scikit_image", "skimage/filters/edges.py")
