"""The measured table: which path is faster for an operator and shape, as the GPU suite recorded it.

`table.csv` is checked in and written by `python -m novelview_kernels.gpu`. Nothing is timed when a program starts: a
shape without a measurement nearby takes PyTorch's path."""

import csv
import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

FILE = Path(__file__).with_name("table.csv")
COLUMNS = ["op", "cc", "dtype", "direction", "sizes", "ours_ms", "other_ms", "other", "gpu", "torch", "triton", "date"]
REACH = 1.0  # a measurement speaks for sizes at most this many powers of two away
MARGIN = 0.97  # ours must take at most this share of the other's time: less is within the noise of a measurement


class Measurement(NamedTuple):
    """One row: times in milliseconds of our kernel and of the best other path."""

    sizes: dict[str, int]
    ours: float
    other: float


class Found(NamedTuple):
    """What the table says: "triton" or "torch", and from how many measurements (0: none near enough)."""

    choice: str
    measurements: int

    def __str__(self) -> str:
        return "Triton" if self.choice == "triton" else "PyTorch"


def reason(found: Found) -> str:
    """Say why a choice was made."""
    return "measured faster" if found.measurements else "no measurement near these sizes"


def parse_sizes(text: str) -> dict[str, int]:
    """Read `b=1 h=12 n=1280 d=64`."""
    return {name: int(value) for name, value in (part.split("=") for part in text.split())}


def format_sizes(sizes: Mapping[str, int]) -> str:
    """Write sizes as `parse_sizes` reads them."""
    return " ".join(f"{name}={value}" for name, value in sizes.items())


@functools.cache
def measurements(file: Path = FILE) -> dict[tuple[str, int, str, str], list[Measurement]]:
    """Read the table, grouped by (operator, compute capability, dtype, direction)."""
    groups: dict[tuple[str, int, str, str], list[Measurement]] = {}
    with open(file, newline="") as stream:
        for row in csv.DictReader(stream):
            key = (row["op"], int(row["cc"]), row["dtype"], row["direction"])
            entry = Measurement(parse_sizes(row["sizes"]), float(row["ours_ms"]), float(row["other_ms"]))
            groups.setdefault(key, []).append(entry)
    return groups


def _distance(a: Mapping[str, int], b: Mapping[str, int]) -> float:
    if a.keys() != b.keys() or a.get("d") != b.get("d"):
        return math.inf
    return max((abs(math.log2(max(a[name], 1) / max(b[name], 1))) for name in a), default=0.0)


def fastest(op: str, cc: int, dtype: str, training: bool, sizes: Mapping[str, int], file: Path | None = None) -> Found:
    """Return the faster path by the measurements within reach of `sizes`; all of them must clearly favour our kernel.

    file: another table than the checked-in one, which is read at import: torch.compile opens no files.
    Training asks for forward and backward together. A head width must be measured itself, never a neighbour."""
    rows = (SHIPPED if file is None else measurements(file)).get(
        (op, cc, dtype, "train" if training else "forward"), []
    )
    near = [row for row in rows if _distance(row.sizes, sizes) <= REACH]
    ours = bool(near) and all(row.ours <= MARGIN * row.other for row in near)
    return Found("triton" if ours else "torch", len(near))


SHIPPED = measurements()
