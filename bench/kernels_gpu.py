"""Everything a GPU is needed for, within nine minutes: `python bench/kernels_gpu.py`, which is `make gpu`.

First training steps of whole models (kernels_steps.py), then the suite of the kernels (`novelview_kernels.gpu`), each
within its share of the time; their short tables last. Runs on any Python with torch, triton and numpy; whole models
need novelview's dependencies besides: an installed novelview, or `--bundle` with the wheels of `make mini-bundle`.
This file imports the standard library alone."""

import argparse
import importlib.util
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SIDE = ROOT / ".bare"
NEEDED = ("hydra", "omegaconf", "jaxtyping", "safetensors", "PIL")
STEPS = 0.2  # share of the time for whole models
START = 20.0  # seconds that importing and compiling may take beyond a share


def missing(side: Path | None = None) -> list[str]:
    """Return which dependencies of whole models this Python lacks."""
    found = importlib.util.find_spec
    return [name for name in NEEDED if not (found(name) or (side and (side / name).is_dir()))]


def installed(bundle: Path) -> str:
    """Install a bundle of wheels beside the project; return what went wrong, or an empty string."""
    sys.path.insert(0, str(ROOT / "tools"))
    from carry.bare import install  # the standard library alone, too

    try:
        install(bundle, SIDE)
    except LookupError as error:
        return str(error.args[0])
    return ""


def environment() -> dict[str, str]:
    """Return the environment of the parts: this checkout's code first, then the bundle's."""
    own = [str(ROOT / "src"), str(ROOT / "kernels"), str(ROOT / "bench")]
    inherited = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return dict(os.environ, PYTHONPATH=os.pathsep.join([*own, *inherited, str(SIDE)]), PYTHONUNBUFFERED="1")


def run(arguments: Sequence[str], seconds: float) -> tuple[int, list[str]]:
    """Run a part of this Python for at most so many seconds, its output shown and returned; status 124: ended by us."""
    part = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, text=True, env=environment(), cwd=ROOT
    )
    late = threading.Timer(max(seconds, 1.0), part.kill)
    late.start()
    assert part.stdout is not None
    lines = []
    for line in part.stdout:
        print(line, end="", flush=True)
        lines.append(line.rstrip("\n"))
    ended = late.finished.is_set()
    late.cancel()
    return (124 if part.wait() < 0 and ended else part.returncode), lines


def whole_models(minutes: float, bundle: Path | None) -> tuple[int, list[str]]:
    """Time training steps; return the status and their short table, or the line that says why there is none."""
    problem = installed(bundle) if bundle else ""
    lacking = missing(SIDE)
    if problem or lacking:
        why = problem or f"this Python lacks {', '.join(lacking)}; give BUNDLE, the folder that `make mini-bundle` made"
        return int(bool(problem)), [f"whole models: NOT MEASURED ({why})"]
    status, lines = run(["bench/kernels_steps.py", "--minutes", f"{minutes:.2f}"], 60 * minutes + START)
    start = next((number for number, line in enumerate(lines) if line.startswith("model ")), len(lines))
    return status, lines[start:] or [f"whole models: NOT MEASURED (status {status}, see above)"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both parts; return the exit status: 1 when a check fails or a part breaks, 2 without a GPU."""
    parser = argparse.ArgumentParser(prog="python bench/kernels_gpu.py", description="Check and measure on a GPU.")
    parser.add_argument("--minutes", type=float, default=9.0, help="wall-clock budget of everything")
    parser.add_argument("--bundle", type=Path, help="wheels of `make mini-bundle`, for a Python without dependencies")
    parser.add_argument("--write-table", action="store_true", help="replace the dispatch table by what was measured")
    options = parser.parse_args(arguments)
    if missing_gpu():
        print("error: no CUDA device for this Python's torch; nothing measured", file=sys.stderr)
        return 2
    end = time.monotonic() + 60 * options.minutes
    broken, table = whole_models(STEPS * options.minutes, options.bundle)
    minutes = max((end - time.monotonic() - 2 * START) / 60, 0.1)
    suite = ["-m", "novelview_kernels.gpu", "--minutes", f"{minutes:.2f}", "--out", "bench/results"]
    status, _ = run([*suite, *(["--write-table"] if options.write_table else [])], end - time.monotonic())
    print("\n" + "\n".join(table))
    return int(bool(status or broken))


def missing_gpu() -> bool:
    """Whether torch is missing here, or sees no GPU."""
    code = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True).returncode != 0


if __name__ == "__main__":
    sys.exit(main())
