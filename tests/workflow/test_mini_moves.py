"""The driver over the real DAG of the mini scale, with stages that take no time: moves, boxes, and what may be left."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mini_checkout import MiniCheckout

TOYS = ("download", "preprocess", "pointmaps", "train", "evaluate", "figures", "report", "compact", "publish")
LAUNCH = """
import os, sys
visible_gpus = lambda environment: []
if __name__ == "__main__":
    at = next(place for place, word in enumerate(sys.argv) if word.startswith("novelview."))
    os.execv(sys.executable, [sys.executable, "-m", *sys.argv[at:]])
"""
JOBS = 32  # a call


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> MiniCheckout:
    checkout = MiniCheckout(tmp_path_factory.mktemp("toy") / "novelview")
    for stage in TOYS:
        shutil.copyfile(Path(__file__).with_name("toy_stage.py"), checkout.path(f"src/novelview/stages/{stage}.py"))
    checkout.path("src/novelview/stages/launch.py").write_text(LAUNCH)
    return checkout


def call(checkout: MiniCheckout, *words: str) -> tuple[int, str]:
    paths = f"{checkout.path('src')}:{checkout.path('kernels')}:{checkout.path('workflow')}:{checkout.path('tools')}"
    command = [sys.executable, "-m", "carry", "--cores", "1", *words]
    done = subprocess.run(
        command, cwd=checkout.folder, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


def results(checkout: MiniCheckout) -> dict[str, bytes]:
    """Return what the studies made, weights that no longer travel left out."""
    paths = [path for place in ("results", "released") for path in checkout.path(place).rglob("*") if path.is_file()]
    kept = [path for path in paths if path.name != "model.safetensors" or "released" in path.parts]
    return {str(path.relative_to(checkout.folder)): path.read_bytes() for path in kept if ".units" not in str(path)}


@pytest.mark.slow
def test_moved_at_every_call_it_ends_with_the_results_of_one_call(toy: MiniCheckout, tmp_path: Path) -> None:
    whole = toy.copy(tmp_path / "whole")
    status, said = call(whole)
    assert status == 0, said[-5000:]

    state, trained = tmp_path / "state", []
    for number in range(12):
        place = toy.copy(tmp_path / f"call{number}")
        place.path("toy-jobs").write_text(str(JOBS))
        status, said = call(place, "--state", str(state), "--set", "runtime.max_minutes=1")
        assert status in (0, 4), said[-5000:]
        if place.path("toy-resumed").exists():
            trained += place.path("toy-resumed").read_text().splitlines()
        if status == 0:
            break
    assert status == 0 and number >= 2
    assert results(place) == results(whole)
    # Every training once; LaCT's go on from the state of the step before, also where that was made in another folder.
    names = [line.split()[0] for line in whole.path("toy-resumed").read_text().splitlines()]
    assert sorted(line.split()[0] for line in trained) == sorted(names) and len(set(names)) == len(names) > 20
    assert all(line.endswith(" resumed") == ("/lact/" in line) for line in trained)

    again = toy.copy(tmp_path / "again")
    status, said = call(again, "--state", str(state), "--set", "runtime.max_minutes=1")
    assert status == 0 and "all stages are finished" in said, said[-5000:]
    assert not again.path("data").exists() and not again.path("toy-resumed").exists()
    _refusals(toy, state, tmp_path)


def _refusals(toy: MiniCheckout, state: Path, tmp_path: Path) -> None:
    """Other words and other data are one line; a damaged piece changes nothing in the checkout."""
    other = toy.copy(tmp_path / "other")
    status, said = call(other, "--state", str(state), "--set", "train.steps=9")
    assert status == 2 and said.startswith("error: ") and said.count("\n") == 1
    index = json.loads((state / "state.json").read_text())
    piece = state / index["pieces"][0]["name"]
    piece.write_bytes(piece.read_bytes()[:-1] + b"?")
    status, said = call(other, "--state", str(state), "--set", "runtime.max_minutes=1")
    assert status == 2 and "is damaged" in said and said.count("\n") == 1
    assert not other.path("results").exists()
