"""The command `novelview`: the stages by name, their own exit status, and one line for a name there is none of."""

import subprocess
import sys
import tomllib
from pathlib import Path

from novelview.stages.__main__ import STAGES

ROOT = Path(__file__).parents[2]


def novelview(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "novelview.stages", *words], capture_output=True, text=True, cwd=ROOT)


def test_it_is_installed_under_its_name() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"novelview": "novelview.stages.__main__:main"}


def test_alone_it_lists_the_stages() -> None:
    done = novelview()
    assert done.returncode == 0 and {"plan", "download", "train", "publish"} <= set(STAGES)
    assert [line.split()[0] for line in done.stdout.splitlines()[2:]] == STAGES


def test_a_stage_gets_its_words_and_gives_its_status() -> None:
    done = novelview("train", "--show-config", "train.steps=7")
    assert done.returncode == 0 and "steps: 7" in done.stdout
    wrong = novelview("plan", "study=nerf")
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: study 'nerf'")


def test_an_unknown_stage_is_one_line() -> None:
    done = novelview("pretrian")
    assert done.returncode == 2 and done.stderr.startswith("error: there is no stage 'pretrian'")
    assert done.stderr.count("\n") == 1
