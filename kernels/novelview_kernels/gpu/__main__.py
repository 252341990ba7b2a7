"""The GPU suite in one command: `python -m novelview_kernels.gpu [--minutes 6.5] [--out FOLDER] [--write-table]`.

Correctness against float64, repeatability of bits, then times against the fastest alternatives; CSV files under
`--out`, the targets and a short table last. Status 1 when a check fails. Needs torch, triton and numpy alone.
`--rehearse` runs the same code on a CPU with tiny inputs through Triton's interpreter (NOVELVIEW_KERNELS=interpret):
its times mean nothing."""

import argparse
import csv
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from novelview_kernels import backend
from novelview_kernels.context_attention import bench as context_bench
from novelview_kernels.gpu import attention_checks, measure, report, ttt_checks
from novelview_kernels.gpu.repeat import repeatability
from novelview_kernels.gpu.verdicts import Verdict, guarded
from novelview_kernels.qk_attention import bench as attention_bench
from novelview_kernels.ttt import bench as ttt_bench

Check = tuple[str, Callable[[], Iterator[Verdict]]]


class Part(NamedTuple):
    """A part of the measurements: its cases by device, and its share of the time then left."""

    cases: Callable[[str], Iterable[measure.Case]]
    share: float


CHECKS = 0.3  # share of the time
# Cheap paths at all sizes first; then the competitors that take longer to compile than to measure.
PARTS = [
    Part(attention_bench.cases, 0.2),
    Part(context_bench.cases, 0.25),
    Part(ttt_bench.cases, 0.4),
    Part(attention_bench.compiled_cases, 0.4),
    Part(ttt_bench.compiled_cases, 0.6),
    Part(context_bench.compiled_cases, 1.0),
]


def _checks(device: str, mode: str) -> Iterator[Check]:
    if device == "cuda":
        attention, fast, times = list(attention_checks.cases()), list(ttt_checks.cases()), 200
    else:
        attention = [attention_checks.Case(torch.float32, 32, 70, 70, batch=1, heads=1)]
        attention += [attention_checks.Case(torch.float32, 32, 60, 20, 20, batch=1, heads=1)]
        fast, times = [ttt_checks.Case(1, 32, 64, 64, 0, torch.float32)], 2
    yield "repeatability", partial(repeatability, device, mode, times)
    yield from ((str(case), partial(attention_checks.check, case, device, mode)) for case in attention)
    yield from ((str(case), partial(ttt_checks.check, case, device, mode)) for case in fast)


def _run_checks(checks: Iterable[Check], clock: measure.Clock) -> Iterator[Verdict]:
    for name, check in checks:
        if clock.left() <= 0:
            yield Verdict(name, "not run: out of time", 0.0, 0.0, False)
            continue
        for verdict in guarded(name, check):
            if not verdict.passed:
                print(f"FAILED {verdict.case} {verdict.tensor}: {verdict.ours:.2e}, PyTorch {verdict.theirs:.2e}")
            yield verdict


def _measure(rows: list[measure.Row], clock: measure.Clock, cuda: bool, file: Path) -> None:
    for part in PARTS:
        share = measure.Clock(part.share * clock.left())
        for case in part.cases("cuda" if cuda else "cpu"):
            rows.extend(measure.rows_of(case, share, cuda))
            if cuda:
                torch.compiler.reset()
                torch.cuda.empty_cache()
        measure.write(file, rows)


def _write_checks(file: Path, verdicts: Sequence[Verdict]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    where = measure.machine()
    with open(file, "w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([*Verdict._fields, *where])
        writer.writerows([*verdict, *where.values()] for verdict in verdicts)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m novelview_kernels.gpu", description="Check and measure on a GPU.")
    parser.add_argument("--minutes", type=float, default=6.5, help="wall-clock budget")
    parser.add_argument("--out", type=Path, default=Path("bench/results"), help="folder of the CSV files")
    parser.add_argument("--write-table", action="store_true", help="replace the dispatch table by what was measured")
    parser.add_argument("--rehearse", action="store_true", help="tiny inputs on a CPU, for the suite's own test")
    options = parser.parse_args(arguments)
    if not options.rehearse and not torch.cuda.is_available():
        parser.error("no CUDA device; --rehearse runs the same code on a CPU")
    if options.rehearse and (options.write_table or not backend.interpreting()):
        parser.error("--rehearse needs NOVELVIEW_KERNELS=interpret and measures nothing worth a table")
    if not options.rehearse and not any(map(shutil.which, (os.environ.get("CC", "gcc"), "gcc", "clang"))):
        parser.error("no C compiler (gcc or clang, or what CC names) on the PATH: Triton needs one to launch kernels")
    return options


def _write_table(found: Sequence[report.Best], passed: bool) -> None:
    if not passed:
        print("the dispatch table is left as it was: a check failed or was not run")
        return
    report.write_table(found, backend.capability(torch.device("cuda")))


def _print(verdicts: Sequence[Verdict], rows: Sequence[measure.Row], found: Sequence[report.Best]) -> None:
    for row in rows:
        if row.note:
            print(f"missing: {row.op} {row.sizes} {row.direction} {row.path}: {row.note}")
    print(f"\n{len(verdicts)} checks, {sum(not verdict.passed for verdict in verdicts)} failed")
    for target in report.TARGETS:
        print(report.judged(target, found))
    print()
    for line in report.lines(found):
        print(line)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite; return the exit status."""
    options = _options(arguments)
    cuda = not options.rehearse
    device, mode = ("cuda", "triton") if cuda else ("cpu", "interpret")
    whole, verdicts, rows, checked = measure.Clock(60 * options.minutes), [], [], False
    with measure.at_most(60 * options.minutes):
        verdicts += _run_checks(_checks(device, mode), measure.Clock(CHECKS * whole.left()))
        checked = True
        _write_checks(options.out / "kernels_checks.csv", verdicts)
        _measure(rows, whole, cuda, options.out / "kernels.csv")
    measure.write(options.out / "kernels.csv", rows)
    found = report.best(rows)
    passed = checked and all(verdict.passed for verdict in verdicts)
    if options.write_table:
        _write_table(found, passed)
    _print(verdicts, rows, found)
    return int(not passed)


if __name__ == "__main__":
    sys.exit(main())
