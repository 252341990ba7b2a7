"""The GPU suite in one command: `python -m novelview_kernels.gpu [--minutes 9] [--out FOLDER] [--write-table]`.

Correctness against float64, repeatability of bits, then measurements against the fastest alternatives; CSV files under
`--out`, a short table last. Status 1 when a check fails. `--rehearse` runs the same code on a CPU with tiny inputs
through Triton's interpreter (NOVELVIEW_KERNELS=interpret): its times mean nothing.
"""

import argparse
import csv
import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch

from novelview_kernels import backend, table
from novelview_kernels.context_attention import bench as context_bench
from novelview_kernels.gpu import correct, measure
from novelview_kernels.qk_attention import bench as attention_bench
from novelview_kernels.ttt import bench as ttt_bench

SHARE = {"checks": 0.3, "qk_attention": 0.35, "context_attention": 0.5, "ttt": 1.0}  # of the time then left


def _checks(device: str, clock: measure.Clock, times: int) -> list[correct.Verdict]:
    groups = (correct.attention(device), correct.fast_weights(device), correct.repeatability(device, times))
    found: list[correct.Verdict] = []
    for verdict in itertools.chain(*groups):
        found.append(verdict)
        if not verdict.passed:
            print(f"FAILED {verdict.case} {verdict.tensor}: {verdict.ours:.2e}, PyTorch {verdict.theirs:.2e}")
        if clock.left() <= 0:
            found.append(correct.Verdict("checks", "out of time", 0.0, 0.0, False))
            break
    return found


def _measured(cases: Iterable[measure.Case], clock: measure.Clock, cuda: bool) -> Iterator[measure.Row]:
    for case in cases:
        yield from measure.rows_of(case, clock, cuda)
        if cuda:
            torch.compiler.reset()
            torch.cuda.empty_cache()


def _write_checks(file: Path, verdicts: Sequence[correct.Verdict]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([*correct.Verdict._fields, *measure.machine()])
        writer.writerows([*verdict, *measure.machine().values()] for verdict in verdicts)


def write_table(best: Sequence[dict[str, str]], file: Path = table.FILE) -> None:
    """Replace the dispatch table by these measurements, all made on this machine."""
    where, cc = measure.machine(), str(backend.capability(torch.device("cuda")))
    kept = [row for row in best if row["direction"] in ("forward", "train")]
    with open(file, "w", newline="") as stream:
        writer = csv.DictWriter(stream, table.COLUMNS, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**where, **row, "cc": cc} for row in kept)


def _summary(verdicts: Sequence[correct.Verdict], best: Sequence[dict[str, str]]) -> None:
    failed = sum(not verdict.passed for verdict in verdicts)
    print(f"{len(verdicts)} checks, {failed} failed")
    print(f"{'operator':18} {'sizes':44} {'direction':22} {'ours ms':>9} {'best other':>10} {'ratio':>6}  by")
    for row in best:
        ratio = float(row["other_ms"]) / max(float(row["ours_ms"]), 1e-9)
        head = f"{row['op']:18} {row['sizes']:44} {row['direction']:22}"
        print(f"{head} {row['ours_ms']:>9} {row['other_ms']:>10} {ratio:6.2f}  {row['other']}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m novelview_kernels.gpu", description="Check and measure on a GPU.")
    parser.add_argument("--minutes", type=float, default=8.5, help="wall-clock budget")
    parser.add_argument("--out", type=Path, default=Path("bench/results"), help="folder of the CSV files")
    parser.add_argument("--write-table", action="store_true", help="replace the dispatch table by what was measured")
    parser.add_argument("--rehearse", action="store_true", help="tiny inputs on a CPU, for the suite's own test")
    options = parser.parse_args(arguments)
    if not options.rehearse and not torch.cuda.is_available():
        parser.error("no CUDA device; --rehearse runs the same code on a CPU")
    if options.rehearse and (options.write_table or not backend.interpreting()):
        parser.error("--rehearse needs NOVELVIEW_KERNELS=interpret and measures nothing worth a table")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite; return the exit status."""
    options = _options(arguments)
    cuda, device = not options.rehearse, "cpu" if options.rehearse else "cuda"
    whole = measure.Clock(60 * options.minutes)
    verdicts = _checks(device, measure.Clock(SHARE["checks"] * whole.left()), 200 if cuda else 2)
    _write_checks(options.out / "kernels_checks.csv", verdicts)
    rows: list[measure.Row] = []
    for bench, name in ((attention_bench, "qk_attention"), (context_bench, "context_attention"), (ttt_bench, "ttt")):
        clock = measure.Clock(SHARE[name] * whole.left())
        rows += _measured(bench.cases(device), clock, cuda)
        measure.write(options.out / "kernels.csv", rows)
    best = measure.best(rows)
    if options.write_table:
        write_table(best)
    _summary(verdicts, best)
    for row in rows:
        if row.note:
            print(f"missing: {row.op} {row.sizes} {row.direction} {row.path}: {row.note}")
    return int(not all(verdict.passed for verdict in verdicts))


if __name__ == "__main__":
    sys.exit(main())
