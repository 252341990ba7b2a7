"""What the benchmarks share: rows appended to one CSV with machine, versions and date."""

import csv
import datetime
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter

import numpy as np
import PIL
import torch

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, str]:
    """Return the columns that say where and with what a row was measured."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "cpu": _cpu(),
        "cores": str(os.cpu_count()),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "pillow": PIL.__version__,
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def append(name: str, rows: Sequence[Mapping[str, object]]) -> Path:
    """Append rows to results/{name}.csv, with the machine's columns after theirs; print and return the file."""
    path = RESULTS / f"{name}.csv"
    path.parent.mkdir(exist_ok=True)
    new, where = not path.exists(), machine()
    header = [*rows[0], *where]
    if not new and path.read_text().partition("\n")[0].split(",") != header:
        raise SystemExit(f"{path}: has other columns than these rows; choose another name")
    with open(path, "a", newline="") as stream:
        writer = csv.DictWriter(stream, header, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows({**row, **where} for row in rows)
    for row in rows:
        print("  ".join(f"{key}={value}" for key, value in row.items()))
    return path


def seconds(call: Callable[[], object], repeats: int = 1) -> float:
    """Return the median wall-clock seconds of a call."""
    times = []
    for _ in range(repeats):
        begin = perf_counter()
        call()
        times.append(perf_counter() - begin)
    return sorted(times)[len(times) // 2]
