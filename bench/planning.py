"""Seconds that planning takes: `snakemake -n` of the demo and of the whole paper, and a call with nothing to do.

python bench/planning.py [--checkout FOLDER] [--finished FOLDER] [--note WORDS]; FOLDER of --finished: where a demo was
run to its end. Rows hold wall-clock and processor seconds (user and system), which tell a busy machine from slow code.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

from common import append

CALLS = {
    "demo, nothing there": ["scale=demo", "study=less3depend"],
    "paper, nothing there": ["scale=paper", "study=less3depend"],
    "demo, nothing to do": ["scale=demo", "study=less3depend"],
}


def measure(checkout: Path, folder: Path, config: list[str]) -> dict[str, object]:
    """Dry-run one configuration of a checkout in `folder`; return seconds and the number of jobs planned."""
    snakefile = ["-s", str(checkout / "Snakefile"), "--directory", str(folder)]
    command = [sys.executable, "-m", "snakemake", *snakefile, "-n", "--config", *config]
    before, begin = os.times(), perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, cwd=checkout)
    wall, after = perf_counter() - begin, os.times()
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    processor = after.children_user - before.children_user + after.children_system - before.children_system
    totals = [line.split()[1] for line in (done.stdout + done.stderr).splitlines() if line.startswith("total ")]
    return {"jobs": int(totals[0]) if totals else 0, "wall_s": round(wall, 2), "processor_s": round(processor, 2)}


def main() -> None:
    """Measure every call; append and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkout", type=Path, default=Path(__file__).resolve().parents[1])
    parser.add_argument("--finished", type=Path)
    parser.add_argument("--note", default="")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as empty:
        for call, config in CALLS.items():
            folder = given.finished if call == "demo, nothing to do" else Path(empty)
            if folder is None:
                continue
            runs = [measure(given.checkout.resolve(), folder.resolve(), config) for _ in range(given.repeats)]
            best = min(runs, key=lambda run: float(str(run["processor_s"])))
            rows.append({"call": call, "note": given.note, "load": round(os.getloadavg()[0], 1), **best})
    append("planning", rows)


if __name__ == "__main__":
    main()
