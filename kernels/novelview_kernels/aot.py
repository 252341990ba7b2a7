"""Compile gate: every shipped kernel configuration to machine code, without a GPU.

    python -m novelview_kernels.aot [--cc 80 90] [--only NAME] [--jobs N]

Prints a table; ends with status 1 when a kernel spills, exceeds shared memory, misses the tensor cores or has its wgmma
instructions serialised."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor

from novelview_kernels.launch import record

HEAD = ["arch", "kernel", "regs", "spill", "stack", "shared", "HGMMA", "HMMA", "verdict"]
WIDTHS = [5, 56, 4, 5, 5, 6, 5, 4, 0]


def shipped() -> dict[str, Callable[[], None]]:
    """Return the operators' functions that launch every configuration once, by name."""
    from novelview_kernels.attention import specimens as attention
    from novelview_kernels.ttt import specimens as ttt

    return {**attention.LAUNCHES, **ttt.LAUNCHES}


def _cases(ccs: Sequence[int], only: str) -> list[tuple[int, str, int]]:
    """Return every different compilation as (compute capability, configuration, index among its launches)."""
    cases: dict[object, tuple[int, str, int]] = {}
    for cc in ccs:
        for name, launches in shipped().items():
            if re.search(only, name):
                with record(cc) as recording:
                    launches()
                for index, specimen in enumerate(recording.specimens):
                    cases.setdefault((cc, specimen.key()), (cc, name, index))
    return list(cases.values())


def check(case: tuple[int, str, int]) -> tuple[list[object], tuple[str, ...]]:
    """Compile and inspect one launch; return its table row and problems."""
    from novelview_kernels.inspection import compile_specimen, inspect

    cc, name, index = case
    with record(cc) as recording:
        shipped()[name]()
    specimen = recording.specimens[index]
    title = f"{name}/{specimen.kernel.__name__}"
    report = inspect(compile_specimen(specimen, cc), cc)
    row = [f"sm_{cc}", title, report.registers, report.spilled, report.stack, report.shared, report.hgmma, report.hmma]
    return [*row, "; ".join(report.problems) or "ok"], report.problems


def _print(cells: Iterable[object]) -> None:
    print("  ".join(f"{cell!s:{width}}" for cell, width in zip(cells, WIDTHS, strict=True)).rstrip(), flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the gate; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m novelview_kernels.aot", description="Compile every shipped kernel without a GPU."
    )
    parser.add_argument("--cc", type=int, nargs="+", default=[80, 90], choices=[80, 90])
    parser.add_argument("--only", default="", help="regular expression of configuration names")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args(arguments)
    cases = _cases(options.cc, options.only)
    if not cases:
        parser.error(f"no configuration is called {options.only!r}")
    _print(HEAD)
    bad = 0
    with ProcessPoolExecutor(options.jobs) as pool:
        for row, problems in pool.map(check, cases):
            _print(row)
            bad += bool(problems)
    print(f"{len(cases)} kernels, {bad} with problems (Triton {_version()})")
    return int(bad > 0)


def _version() -> str:
    import triton

    return triton.__version__


if __name__ == "__main__":
    sys.exit(main())
