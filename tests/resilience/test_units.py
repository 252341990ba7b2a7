"""Endings of every kind in the middle of a long stage: what was finished is never made twice."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from novelview.stages.cli import run_stage
from novelview.stages.download import download
from novelview.stages.pointmaps import pointmaps
from novelview.stages.poses import poses
from novelview.stages.preprocess import preprocess

DRIVER = """
import os, signal, sys
import torch
from novelview.scenes import pointmaps as maps
from novelview.scenes.estimation import estimate
from novelview.stages import pointmaps, poses
from novelview.stages.cli import run_stage

stage, ending, log, *words = sys.argv[1:]
made = []

def unit(name, value, broken):
    made.append(name)
    if len(made) == 2 and ending == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    with open(log, "a") as stream:
        stream.write(name + chr(10))
    return broken(value) if len(made) == 2 and ending == "nan" else value

def full(write):
    def writing(path, *rest):
        if len(made) == 2 and ending == "disk":
            raise OSError(28, "No space left on device", str(path))
        return write(path, *rest)
    return writing

own = pointmaps._exact
def teaching(*given):
    teach = own(*given)
    return lambda scene, frames: unit(scene, teach(scene, frames), lambda points: points * float("nan"))
pointmaps._exact = teaching
maps.write_bytes = full(maps.write_bytes)

class Counted(estimate.Given):
    def estimate(self, scene, frames, work, log):
        found = super().estimate(scene, frames, work, log)
        def broken(found):
            found.w2c[0] = float("nan")
            return found
        return unit(scene.key, found, broken)
poses.estimator = lambda cfg: Counted()
estimate.write_json = full(estimate.write_json)
raise SystemExit(run_stage(stage, {"pointmaps": pointmaps.pointmaps, "poses": poses.poses}[stage], words))
"""
KEPT = (".torch", ".safetensors")
VIEWS = ["views.image_size=24", "views.patch_size=8", "views.resize=centred"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four small rooms, raw and packed, and what undisturbed stages make of them."""
    folder = tmp_path_factory.mktemp("rooms")
    rooms = ["source=rooms", "source.train_scenes=4", "source.test_seen_scenes=1", "source.test_new_scenes=0"]
    rooms += ["source.frames=10", "source.gaps=[6]", "source.height=36", "source.width=64"]
    assert run_stage("download", download, [*rooms, f"io.out={folder}/raw", "runtime.progress=false"]) == 0
    assert run_stage("preprocess", preprocess, [f"io.raw={folder}/raw", f"io.out={folder}/packed"]) == 0
    for stage, body in (("pointmaps", pointmaps), ("poses", poses)):
        assert run_stage(stage, body, words(stage, folder, folder / stage)) == 0
    return folder


def words(stage: str, data: Path, out: Path) -> list[str]:
    own = [*VIEWS, f"io.packed={data}/packed"] if stage == "pointmaps" else ["poses=given", "splits=[train]"]
    return [*own, f"io.raw={data}/raw", f"io.out={out}/out", "runtime.progress=false"]


def call(stage: str, ending: str, log: Path, given: list[str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", DRIVER, stage, ending, str(log), *given]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


@pytest.mark.parametrize("stage", ["pointmaps", "poses"])
@pytest.mark.parametrize("ending", ["kill", "disk", "nan"])
def test_nothing_finished_is_made_twice(data: Path, tmp_path: Path, stage: str, ending: str) -> None:
    given, log = words(stage, data, tmp_path), tmp_path / "made"
    first = call(stage, ending, log, given)
    survives = stage == "poses" and ending == "nan"  # a scene without cameras is a result, told in poses.json
    assert first.returncode == (-9 if ending == "kill" else 0 if survives else 2), first.stderr
    assert "Traceback" not in first.stderr and (tmp_path / "out").exists() == survives
    before = log.read_text().split()
    assert len(before) >= {"kill": 1, "disk": 2, "nan": 4}[ending], "the others go on after a scene that fails"
    second = call(stage, "none", log, given)
    assert second.returncode == 0, second.stderr
    again = log.read_text().split()[len(before) :]
    lost = before[1:2] if not survives else []  # what was being made when it ended
    assert set(again) & set(before) == set(lost) and len(again) == len(set(again))
    if not survives:
        ours, theirs = (
            {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.suffix in KEPT}
            for root in (tmp_path / "out", data / stage / "out")
        )
        assert ours == theirs and len(ours) >= 1
