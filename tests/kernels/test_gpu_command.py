"""`make gpu` on a machine without a GPU: its parts, their time, what it says where something is missing."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    import kernels_gpu

    return kernels_gpu


def test_without_a_gpu_one_line_says_so() -> None:
    run = subprocess.run([sys.executable, "bench/kernels_gpu.py"], cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == "error: no CUDA device for this Python's torch; nothing measured\n"


def test_a_part_that_takes_too_long_is_ended(command: ModuleType, capsys: pytest.CaptureFixture) -> None:
    status, lines = command.run(["-c", "import time; print('begun'); time.sleep(600)"], 10)
    assert (status, lines) == (124, ["begun"]) and capsys.readouterr().out == "begun\n"
    assert command.run(["-c", "raise SystemExit(3)"], 600)[0] == 3


def test_parts_in_order_and_the_short_table_last(command: ModuleType, monkeypatch, capsys):
    calls: list[tuple[list[str], float]] = []

    def run(arguments: list[str], seconds: float) -> tuple[int, list[str]]:
        calls.append((arguments, seconds))
        return 0, ["date=today", "model   size", "uplvsm  224"]

    monkeypatch.setattr(command, "run", run)
    monkeypatch.setattr(command, "missing_gpu", lambda: False)
    assert command.main(["--minutes", "9", "--write-table"]) == 0
    (steps, first), (suite, second) = calls
    assert steps[0] == "bench/kernels_steps.py" and suite[:2] == ["-m", "novelview_kernels.gpu"]
    assert suite[-1] == "--write-table"
    assert first <= 9 * 60 * 0.3 and 60 * float(suite[3]) < second <= 9 * 60
    assert capsys.readouterr().out.endswith("\nmodel   size\nuplvsm  224\n")


def test_a_bare_python_is_told_what_whole_models_need(command: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "missing", lambda side: ["hydra"])
    status, (line,) = command.whole_models(1.0, None)
    assert status == 0 and "NOT MEASURED (this Python lacks hydra; give BUNDLE" in line


def test_a_bundle_without_wheels_is_an_error(command: ModuleType, tmp_path: Path) -> None:
    status, (line,) = command.whole_models(1.0, tmp_path)
    assert status == 1 and "no wheels here" in line


@pytest.mark.slow
def test_training_steps_run_on_a_cpu(command: ModuleType, monkeypatch, capsys):
    import kernels_steps

    written: list[dict[str, object]] = []
    monkeypatch.setattr(kernels_steps, "append", lambda name, rows: written.extend(rows))
    monkeypatch.setattr(sys, "argv", ["kernels_steps.py", "--scale", "demo", "--repeats", "1", "--minutes", "60"])
    kernels_steps.main()
    assert {(row["model"], row["size"]) for row in written} >= {("uplvsm", 56), ("lact", 56), ("lvsm_decoder_only", 56)}
    assert len(written) == len(kernels_steps.SETTINGS) * len(kernels_steps.ON_CPU)
    assert all(row["ms"] and not row["note"] for row in written)
    assert "1.8x the published arrangement: NOT MEASURED" in capsys.readouterr().out
