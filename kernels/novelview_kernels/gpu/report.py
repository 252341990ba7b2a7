"""What the suite's rows say: the best other path for each case, the targets, the dispatch table."""

import csv
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from novelview_kernels import table
from novelview_kernels.gpu.measure import Row, machine

# What an operator runs on where no kernel is chosen: without its time, nothing can be said to be faster.
FALLBACK = {"qk_attention": "sdpa", "context_attention": "repeated", "ttt_update": "closed form"}
FALLBACK |= {"ttt_apply": "closed form"}


class Best(NamedTuple):
    """Our time and the best other path's, for one case and direction."""

    op: str
    sizes: str
    dtype: str
    direction: str
    ours: Row
    other: Row
    all: Mapping[str, Row]

    @property
    def ratio(self) -> float:
        """How many times faster we are."""
        return _ms(self.other) / _ms(self.ours)


def _ms(row: Row) -> float:
    assert row.ms is not None
    return row.ms


def best(rows: Sequence[Row]) -> list[Best]:
    """Return each case and direction where ours and another path were measured."""
    groups: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        if row.ms is not None and not row.path.startswith("("):  # parts in brackets do not compete
            groups.setdefault((row.op, row.sizes, row.dtype, row.direction), {})[row.path] = row
    found = []
    for (op, sizes, dtype, direction), paths in groups.items():
        others = [row for path, row in paths.items() if path != "ours"]
        if "ours" in paths and others:
            found.append(Best(op, sizes, dtype, direction, paths["ours"], min(others, key=_ms), paths))
    return found


class Target(NamedTuple):
    """A goal: at least `wanted` times faster than the best of `against` (empty: of all), at sizes that contain `at`."""

    op: str
    direction: str
    wanted: float
    against: tuple[str, ...] = ()
    at: str = ""
    memory: float = 0.0  # at most this share of the competitor's peak; 0: not judged

    def __str__(self) -> str:
        who = " or ".join(self.against) or "the best other path"
        memory = f" at {self.memory:g}x its peak memory" if self.memory else ""
        return f"{self.op} {self.direction}: {self.wanted:.2f}x {who}{memory}" + (f", {self.at}" if self.at else "")


TARGETS = [
    Target("qk_attention", "forward", 1.10),
    Target("qk_attention", "train", 1.0),
    *(Target("context_attention", way, 1.2, ("repeated", "merged", "flex")) for way in ("forward", "train")),
    *(
        Target("ttt", "train", 1.3, ("compiled",), at, 0.6)
        for at in ("n=8 l=8192 d=768 m=1536", "n=1 l=32768 d=768 m=1536", "n=1 l=385920 d=768 m=3072")
    ),
    Target("newton_schulz", "forward", 1.5, ("compiled",), "n=1 "),
    Target("newton_schulz", "forward under a graph", 1.5, ("compiled",), "n=1 "),
]


def judged(target: Target, found: Sequence[Best]) -> str:
    """Return one line: at how many sizes the target is met, the median and the worst ratio; or that nothing tells."""
    ratios, fits = [], 0
    for case in found:
        if (case.op, case.direction) == (target.op, target.direction) and target.at in case.sizes + " ":
            rivals = [row for path, row in case.all.items() if path in target.against] or [case.other]
            if target.against and not set(target.against) & set(case.all):
                continue  # the competitor was not measured here
            rival = min(rivals, key=_ms)
            ratios.append(_ms(rival) / _ms(case.ours))
            fits += ratios[-1] >= target.wanted and _fits(case.ours, rival, target.memory)
    if not ratios:
        return f"{target}: NOT MEASURED"
    verdict = "met" if fits == len(ratios) else "MISSED"
    spread = f"median {statistics.median(ratios):.2f}x, worst {min(ratios):.2f}x"
    return f"{target}: {verdict} at {fits} of {len(ratios)} sizes, {spread}"


def _fits(ours: Row, rival: Row, share: float) -> bool:
    return not share or (ours.peak_mib or 0.0) <= share * (rival.peak_mib or 0.0)


def entries(found: Sequence[Best]) -> Iterator[dict[str, str]]:
    """Yield rows of the dispatch table: cases in which what `auto` would otherwise run was measured, too."""
    for case in found:
        fallback = case.all.get(FALLBACK.get(case.op, ""))
        if fallback is not None and case.direction in ("forward", "train"):
            head = {"op": case.op, "sizes": case.sizes, "dtype": case.dtype, "direction": case.direction}
            times = {"ours_ms": f"{_ms(case.ours):.4f}", "other_ms": f"{_ms(case.other):.4f}"}
            yield head | times | {"other": case.other.path}


def write_table(found: Sequence[Best], cc: int, file: Path = table.FILE) -> None:
    """Replace the dispatch table by these measurements, all made on this machine."""
    where = machine()
    with open(file, "w", newline="") as stream:
        writer = csv.DictWriter(stream, table.COLUMNS, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**where, **row, "cc": str(cc)} for row in entries(found))


def lines(found: Sequence[Best]) -> Iterator[str]:
    """Yield the short table: our time, the best other's, both peaks."""
    yield f"{'operator':18} {'sizes':44} {'direction':22} {'ours':>9} {'other':>9} {'ratio':>6} {'peak':>6}  best other"
    for case in found:
        head = f"{case.op:18} {case.sizes:44} {case.direction:22}"
        peaks = (case.ours.peak_mib, case.other.peak_mib)
        memory = f"{peaks[0] / peaks[1]:6.2f}" if peaks[0] is not None and peaks[1] else "     -"
        yield f"{head} {_ms(case.ours):9.3f} {_ms(case.other):9.3f} {case.ratio:6.2f} {memory}  {case.other.path}"
