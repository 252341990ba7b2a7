"""The whole of one call: take up the state, run within the budget, print the table, leave the state."""

import logging
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carry.carried import carried, data_digests
from carry.drive import Budget, Driver, StageFailed, lock_checkout
from carry.state import INDEX, pack, read_index, total_bytes, unpack
from carry.studies import Mini
from carry.table import table
from novelview.errors import DataError
from novelview.timebox import BOXED

log = logging.getLogger(__name__)

MARKER = Path("checkpoints") / "mini-state.txt"  # which state this checkout holds or has left: its pieces' names
ASK = """
import torch
print(torch.__version__)
print(torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu")
"""
TARGET_BYTES, TARGET_FILES = 64_000_000, 8


@dataclass
class Options:
    """The command line: minutes (0: no budget), the state folder (None: nothing is carried), cores, GPUs at a time."""

    minutes: float = 0.0
    state: Path | None = None
    cores: str = "all"
    gpus: int = 1


def call(mini: Mini, options: Options) -> int:
    """Make one call; return 0 when everything is finished, 4 when the budget ended, 1 when a stage failed."""
    budget = Budget(options.minutes)
    with lock_checkout(mini.root):
        about = restore_state(mini, options.state)
        machine = machine_of()
        refuse_other_data(mini, about, machine)
        try:
            finished = _run(mini, Driver(mini, budget, options.cores, options.gpus), about, machine)
            status = 0 if finished else BOXED
        except StageFailed as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            finished, status = False, 1
        about = _report(mini, budget, about, machine, finished)
        if options.state:
            save_state(mini, options.state, about)
    return status


def _run(mini: Mini, driver: Driver, about: dict[str, Any], machine: dict[str, str]) -> bool:
    """Make the data first, compare it with what the state was made from, and then all the rest."""
    wanted = mini.wanted_data()
    if wanted and not driver.snakemake(mini.studies[0], wanted):
        return False
    refuse_other_data(mini, about, machine)
    return all(driver.snakemake(study, driver.targets(study)) for study in mini.studies)


def restore_state(mini: Mini, state: Path | None) -> dict[str, Any]:
    """Put the state's files into the checkout unless they came from here; return what the state says of itself."""
    index = read_index(state) if state else None
    if state is None or index is None:
        return {}
    about, name = index["about"], _name(index)
    if about.get("words") != mini.words or about.get("studies") != list(mini.studies):
        given = f"SET='{about.get('words', '')}' and studies {' '.join(about.get('studies', []))}"
        raise DataError(f"{state}: was made with {given}; repeat these, or name an empty folder to begin anew")
    marker = mini.root / MARKER
    if not (marker.is_file() and marker.read_text() == name):
        unpack(state, mini.root)
    return about


def save_state(mini: Mini, state: Path, about: dict[str, Any]) -> None:
    """Write the state folder and say how large it is."""
    index = pack(state, mini.root, carried(mini), about)
    (mini.root / MARKER).parent.mkdir(exist_ok=True)
    (mini.root / MARKER).write_text(_name(index))
    count, size = len(index["pieces"]) + 1, total_bytes(index)
    print(f"state: {state}/{INDEX} and {count - 1} pieces, {size / 1e6:.1f} MB")
    if size > TARGET_BYTES or count > TARGET_FILES:
        print(f"state: more than {TARGET_FILES} files or {TARGET_BYTES / 1e6:.0f} MB; docs/mini.md says what helps")


def _name(index: dict[str, Any]) -> str:
    return " ".join(entry["name"] for entry in index["pieces"])


def refuse_other_data(mini: Mini, about: dict[str, Any], machine: dict[str, str]) -> None:
    """Raise DataError where data made here differs from what the state was trained on: nothing of it could go on."""
    before, now = about.get("data", {}), data_digests(mini)
    for name in (name for name in now if name in before and now[name] != before[name]):
        there = about.get("machine", {})
        changed = [
            f"{key} {there.get(key)} there, {value} here" for key, value in machine.items() if there.get(key) != value
        ]
        reason = "; ".join(changed) or "the machine is the same, so the code or the configuration of the data changed"
        raise DataError(
            f"{name}: the data made here is not that of the state ({reason}); go on where it came from, or begin anew "
            "with an empty state folder and `make clean`"
        )


def _report(
    mini: Mini, budget: Budget, about: dict[str, Any], machine: dict[str, str], finished: bool
) -> dict[str, Any]:
    """Print the table; return what the next state says of itself."""
    minutes = (time.time() - budget.started) / 60
    calls = [*about.get("calls", []), {"minutes": round(minutes, 2), "device": machine["device"]}]
    gpu = "" if machine["device"] == "cpu" else machine["device"]
    print(table(mini, gpu, calls), flush=True)
    print("all stages are finished" if finished else "the budget is over or a stage failed: the same command goes on")
    data = {**about.get("data", {}), **data_digests(mini)}
    own = {"words": mini.words, "studies": list(mini.studies), "machine": machine}
    return {**own, "data": data, "calls": calls, "finished": finished}


def machine_of() -> dict[str, str]:
    """Return what rendered rooms may depend on: Python, torch, device. torch is asked in a process of its own."""
    answer = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True)
    if answer.returncode:
        raise DataError("torch cannot be imported here; install it, or see docs/mini.md for a bare machine")
    torch, device = answer.stdout.splitlines()[-2:]
    return {"python": platform.python_version(), "torch": torch, "device": device}
