"""The GPU suite on a CPU: what it says of its rows, how it keeps its time, and a rehearsal from end to end."""

import csv
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from novelview_kernels import table
from novelview_kernels.gpu import __main__ as suite
from novelview_kernels.gpu import measure, report
from novelview_kernels.gpu.verdicts import Verdict, guarded

QK, LAYER = "b=1 h=12 n=1280 d=64", "n=8 l=8192 d=768 m=1536"


def _row(op: str, sizes: str, path: str, ms: float | None, peak: float = 100.0, direction: str = "forward"):
    note = "" if ms is not None else "failed: it did"
    return measure.Row(op, sizes, "bfloat16", direction, path, ms, 1.0, peak, note)


def test_the_best_other_path_is_the_fastest_that_ran() -> None:
    times = {"ours": 1.0, "sdpa": 1.5, "flex": 1.2, "sdpa flash": None, "(pre-pass alone)": 0.1}
    (found,) = report.best([_row("qk_attention", QK, path, ms) for path, ms in times.items()])
    assert (found.other.path, found.ratio) == ("flex", pytest.approx(1.2))
    assert not report.best([_row("qk_attention", QK, "ours", 1.0), _row("qk_attention", QK, "sdpa", None)])


JUDGED = [
    ([("ours", 1.0, 50.0), ("compiled", 1.4, 100.0), ("eager", 1.1, 10.0)], "met at 1 of 1 sizes, median 1.40x"),
    ([("ours", 1.0, 70.0), ("compiled", 1.4, 100.0)], "MISSED at 0 of 1"),  # time, but not memory
    ([("ours", 1.0, 50.0), ("compiled", 1.2, 100.0)], "MISSED at 0 of 1"),
    ([("ours", 1.0, 50.0), ("eager", 9.0, 900.0)], "NOT MEASURED"),
]


@pytest.mark.parametrize(("paths", "says"), JUDGED)
def test_targets_are_judged_against_the_competitor_they_name(paths: Sequence, says: str) -> None:
    rows = [_row("ttt", LAYER, path, ms, peak, "train") for path, ms, peak in paths]
    (target,) = [target for target in report.TARGETS if target.at == LAYER]
    assert says in report.judged(target, report.best(rows))


def test_the_table_lists_only_what_was_measured_beside_the_fallback(tmp_path: Path) -> None:
    rows = [_row("qk_attention", QK, path, ms) for path, ms in (("ours", 1.0), ("sdpa", 2.0), ("flex", 1.5))]
    other = QK.replace("1280", "4000")
    rows += [_row("qk_attention", other, path, ms) for path, ms in (("ours", 1.0), ("sdpa", None), ("flex", 1.5))]
    rows += [_row("newton_schulz", "n=1 d=768 m=1536", path, ms) for path, ms in (("ours", 1.0), ("eager", 2.0))]
    file = tmp_path / "table.csv"
    report.write_table(report.best(rows), 90, file)
    with open(file, newline="") as stream:
        (written,) = csv.DictReader(stream)
    assert (written["sizes"], written["other"], written["other_ms"]) == (QK, "flex", "1.5000")
    table.measurements.cache_clear()
    assert table.fastest("qk_attention", 90, "bfloat16", False, table.parse_sizes(QK), file).choice == "triton"
    assert table.fastest("qk_attention", 90, "bfloat16", False, table.parse_sizes(other), file).choice == "torch"


def test_no_table_is_written_after_a_failed_check(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(report, "write_table", lambda *_: pytest.fail("written"))
    suite._write_table([], passed=False)
    assert "left as it was" in capsys.readouterr().out


def test_a_check_that_raises_has_failed_and_keeps_what_it_found() -> None:
    def check() -> Iterator[Verdict]:
        yield Verdict("case", "o", 0.1, 0.1, True)
        raise RuntimeError("out of memory\nand more")

    first, second = guarded("case", check)
    assert first.passed and not second.passed
    assert second.tensor == "RuntimeError: out of memory" and math.isnan(second.ours)


def test_a_budget_ends_even_what_swallows_exceptions(capsys) -> None:
    def stubborn() -> None:
        while True:
            time.sleep(0.01)

    case = measure.Case("op", {"n": 1}, "float32", 1.0, {"ours": stubborn}, {})
    rows: list[measure.Row] = []
    with measure.at_most(0.2):
        rows.extend(measure.rows_of(case, measure.Clock(60), cuda=False))
        pytest.fail("not stopped")
    assert not rows and "stopped" in capsys.readouterr().out


def test_paths_that_fail_or_come_too_late_say_so() -> None:
    def broken() -> None:
        raise ValueError("no such backend")

    case = measure.Case("op", {"n": 1}, "float32", 1.0, {"ours": lambda: None, "other": broken}, {})
    ours, other = measure.rows_of(case, measure.Clock(60), cuda=False)
    assert ours.ms is not None and other.note == "failed: ValueError: no such backend"
    assert all(row.note == "not run: out of time" for row in measure.rows_of(case, measure.Clock(-1), cuda=False))


def test_a_graph_is_captured_only_on_a_gpu() -> None:
    case = measure.Case("op", {"n": 1}, "float32", 1.0, {"ours": lambda: None}, {}, graphs=True)
    assert [row.direction for row in measure.rows_of(case, measure.Clock(60), cuda=False)] == ["forward"]


def test_without_a_gpu_the_suite_says_so() -> None:
    command = [sys.executable, "-m", "novelview_kernels.gpu"]
    environment = {name: value for name, value in os.environ.items() if name != "NOVELVIEW_KERNELS"}
    run = subprocess.run(command, capture_output=True, text=True, env=environment | {"CUDA_VISIBLE_DEVICES": ""})
    assert run.returncode == 2 and "no CUDA device" in run.stderr


@pytest.mark.slow
def test_the_suite_runs_from_end_to_end(tmp_path: Path) -> None:
    """On a Python without anything but torch, triton and numpy, as on a bare machine."""
    allowed = "import sys; sys.modules.update(dict.fromkeys(('novelview', 'hydra', 'jaxtyping', 'PIL', 'omegaconf'))); "
    start = "import runpy; runpy.run_module('novelview_kernels.gpu', run_name='__main__')"
    command = [sys.executable, "-c", allowed + start, "--rehearse", "--minutes", "60", "--out", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ, NOVELVIEW_KERNELS="interpret"))
    assert run.returncode == 0 and " checks, 0 failed" in run.stdout, run.stdout + run.stderr
    assert "missing:" not in run.stdout, "every path runs"
    assert {file.name for file in tmp_path.iterdir()} == {"kernels.csv", "kernels_checks.csv"}
    with open(tmp_path / "kernels.csv", newline="") as stream:
        paths = {(row["op"], row["path"]) for row in csv.DictReader(stream)}
    assert paths >= {("qk_attention", "compiled"), ("context_attention", "merged"), ("ttt", "compiled")}
    assert paths >= {("ttt_update", "closed form"), ("ttt_apply", "eager"), ("newton_schulz", "ours")}


def test_every_listed_shape_and_competitor_is_there() -> None:
    """specs/kernels_feasibility.md section 8."""
    from novelview_kernels.context_attention import bench as context
    from novelview_kernels.qk_attention import bench as attention
    from novelview_kernels.ttt import bench as ttt

    assert len(set(attention.SHAPES)) == 10 and set(attention.COMPILED) <= set(attention.SHAPES)
    assert len(set(context.SHAPES)) == 36 and set(context.COMPILED) <= set(context.SHAPES)
    assert len(set(ttt.GRID)) == 18 and len(ttt.ROOFLINE) == 3
    assert {"sdpa", "sdpa cudnn", "sdpa flash"} < set(attention.paths(cuda=True))
    assert set(attention.compiled_paths(cuda=True)) == {"compiled", "compiled cudnn", "flex"}
