"""Time, memory and rows of the GPU suite."""

import csv
import datetime
import platform
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

Call = Callable[[], Any]


class Case(NamedTuple):
    """Something to measure: competing calls by path over the same inputs.

    `ours` is our kernel; the paths of a case may come in several parts, as compiling takes longer than measuring."""

    op: str
    sizes: dict[str, int]
    dtype: str
    flops: float  # of the forward direction
    forward: Mapping[str, Call]
    train: Mapping[str, Call]
    graphs: bool = False  # also under CUDA graphs: launch-bound sizes
    profiled: bool = False  # say which CUDA kernel a forward path really reaches


class Row(NamedTuple):
    """One measurement; `ms` is None where `note` says why there is none."""

    op: str
    sizes: str
    dtype: str
    direction: str
    path: str
    ms: float | None
    tflops: float | None
    peak_mib: float | None
    note: str
    kernel: str = ""


class Clock:
    """A wall-clock budget: what no longer fits is left out and said to be."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds left."""
        return self.end - time.monotonic()


class OutOfTime(BaseException):
    """Raised inside whatever runs when the whole budget is spent; no competitor's error handling catches it."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Leave a `with` block after so many seconds, even in the middle of a compilation."""

    def stop(number: int, frame: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    except OutOfTime:
        print(f"stopped: {seconds:.0f} s are spent; what was measured until now stands")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def milliseconds(call: Call, cuda: bool) -> float:
    """Return the median milliseconds of a call."""
    if cuda:
        from triton.testing import do_bench

        found: Any = do_bench(call, warmup=10, rep=40, return_mode="median")
        return float(found)
    times = []
    for _ in range(2):
        begin = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(times)


def graph_milliseconds(call: Call) -> float:
    """Return the median milliseconds of a call replayed from a CUDA graph."""
    from triton.testing import do_bench_cudagraph

    found: Any = do_bench_cudagraph(call, rep=20, return_mode="median")
    return float(found)


def main_kernel(call: Call) -> str:
    """Return the CUDA kernel that takes most of a call, by the profiler; empty where that cannot look inside."""
    from torch.profiler import ProfilerActivity, profile

    try:
        with profile(activities=[ProfilerActivity.CUDA]) as found:
            call()
            torch.cuda.synchronize()
        return max((event.self_device_time_total, event.key) for event in found.key_averages())[1][:80]
    except (RuntimeError, ValueError, AttributeError):  # no profiler in this build or container, or nothing recorded
        return ""


def peak_mib(call: Call) -> float:
    """Return the MiB a call allocates at its peak beyond what was there."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def rows_of(case: Case, clock: Clock, cuda: bool) -> Iterator[Row]:
    """Yield a row a path of a case; a path that fails or no longer fits gets one that says so."""
    directions: dict[str, tuple[Mapping[str, Call], Callable[[Call], float], float]] = {
        "forward": (case.forward, lambda call: milliseconds(call, cuda), case.flops),
        "train": (case.train, lambda call: milliseconds(call, cuda), 3.5 * case.flops),
    }
    if case.graphs and cuda:
        directions["forward under a graph"] = (case.forward, graph_milliseconds, case.flops)
    for direction, (calls, measure, flops) in directions.items():
        for path, call in calls.items():
            yield _row(case, direction, path, call, measure, flops, clock, cuda)


def _row(
    case: Case, direction: str, path: str, call: Call, measure: Callable[[Call], float], flops: float,
    clock: Clock, cuda: bool,
) -> Row:  # fmt: skip
    head = (case.op, " ".join(f"{name}={value}" for name, value in case.sizes.items()), case.dtype, direction, path)
    if clock.left() <= 0:
        return Row(*head, None, None, None, "not run: out of time")
    try:
        with torch.set_grad_enabled(direction == "train"):
            call()
            ms = measure(call)
            peak = peak_mib(call) if cuda else None
            kernel = main_kernel(call) if cuda and case.profiled and direction == "forward" else ""
    except Exception as problem:  # a competitor that cannot run here is reported, and the others still measured
        said = str(problem).strip().splitlines() or [""]
        return Row(*head, None, None, None, f"failed: {type(problem).__name__}: {said[0][:120]}")
    return Row(*head, ms, flops / ms / 1e9, peak, "", kernel)


def machine() -> dict[str, str]:
    """Return the columns that say where and with what a row was measured."""
    cuda = torch.cuda.is_available()
    return {
        "gpu": torch.cuda.get_device_name() if cuda else "none",
        "torch": str(torch.__version__),
        "triton": _triton(),
        "cudnn": str(torch.backends.cudnn.version()) if cuda else "none",
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
    }


def _triton() -> str:
    import triton

    return triton.__version__


def write(file: Path, rows: list[Row]) -> None:
    """Write rows with the machine's columns after theirs."""
    where = machine()
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", newline="") as stream:
        writer = csv.DictWriter(stream, [*Row._fields, *where], lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row._asdict(), **where} for row in rows)
