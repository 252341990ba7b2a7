"""The whole mini scale, tiny, in boxes: it runs, stops, moves to bare folders, goes on; its numbers are one call's."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mini_checkout import MiniCheckout

BUDGET = 5.0  # minutes a call; each of the first calls begins in a folder that has no data and no results
MOVES = 2
CALLS = 60


def drive(checkout: MiniCheckout, *words: str) -> subprocess.CompletedProcess[str]:
    paths = f"{checkout.path('src')}:{checkout.path('kernels')}:{checkout.path('workflow')}:{checkout.path('tools')}"
    command = [sys.executable, "-m", "carry", "--cores", "2", *words]
    environment = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=checkout.folder, env=os.environ | environment, capture_output=True, text=True)


def numbers(checkout: MiniCheckout) -> dict[str, Any]:
    """Return every number of the finished studies: scores, tables, curves but for their clock."""
    found: dict[str, Any] = {}
    for path in sorted((checkout.folder / "results").rglob("*")):
        name = str(path.relative_to(checkout.folder))
        if path.name in ("rows.csv", "geometry.json", "poses.json") or path.suffix == ".tex":
            found[name] = path.read_bytes()
        elif path.name == "metrics.json":
            found[name] = json.loads(path.read_text())
        elif path.name == "train.csv":
            rows = list(csv.DictReader(path.read_text().splitlines()))
            found[name] = [{key: value for key, value in row.items() if key != "seconds"} for row in rows]
    return found


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> MiniCheckout:
    return MiniCheckout(tmp_path_factory.mktemp("tiny") / "novelview", steps=3)


@pytest.mark.slow
def test_boxed_moved_and_resumed_it_ends_with_the_numbers_of_one_call(tiny: MiniCheckout, tmp_path: Path) -> None:
    whole = tiny.copy(tmp_path / "whole")
    done = drive(whole)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]

    state, place = tmp_path / "state", tiny.copy(tmp_path / "call0")
    words = ["--state", str(state), "--set", "runtime.max_minutes=1"]
    for call in range(CALLS):
        done = drive(place, *words, "--minutes", str(BUDGET))
        assert done.returncode in (0, 4), (done.stdout + done.stderr)[-6000:]
        _small(state)
        if done.returncode == 0:
            break
        assert re.search(r"^all +\d+ +\d+$", done.stdout, re.MULTILINE)
        if call < MOVES:  # another, bare machine: the checkout and the state alone
            shutil.rmtree(place.folder)
            place = tiny.copy(tmp_path / f"call{call + 1}")
    assert done.returncode == 0 and call >= 1
    assert numbers(place) == numbers(whole)
    assert re.search(r"^all +\d+ +0$", done.stdout, re.MULTILINE)
    assert len(json.loads((state / "state.json").read_text())["about"]["calls"]) == call + 1
    for study in ("mini", "scaling"):
        assert (place.folder / f"results/mini/{study}/report/index.html").is_file()
    assert {path.name for path in (place.folder / "released").iterdir() if path.is_dir()} == {
        *("uplvsm_mini", "ptlvsm_mini", "lvsm_mini", "lact_mini")
    }


def _small(state: Path) -> None:
    files = list(state.rglob("*"))
    assert len(files) <= 8 and all(path.is_file() and path.stat().st_size <= 16_000_000 for path in files)
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", path.name) for path in files)
