"""What `pip install .` alone gives: a wheel with its configuration, whose few dependencies carry a training. The
command `novelview`: the stages by name, their own exit status, and one line for a name there is none of."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from novelview.errors import EXTRAS, missing_extra
from novelview.stages.__main__ import STAGES

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Hides every installed package that the requirements named on the command line do not bring, then runs the rest of it.
ALONE = """
import re, runpy, sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires

def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()

left, kept = sys.argv[1].split(), {"setuptools"}
while left:
    name = normal(left.pop())
    if name not in kept:
        kept.add(name)
        try:
            left += [re.match(r"[A-Za-z0-9_.-]+", one)[0] for one in requires(name) or [] if "extra ==" not in one]
        except PackageNotFoundError:  # of another platform
            pass
for module, owners in packages_distributions().items():
    if not {normal(owner) for owner in owners} & (kept | {"novelview"}):
        sys.modules[module] = None
sys.argv = sys.argv[2:]
if sys.argv[0] == "-c":
    exec(sys.argv[1])
else:
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""
LOSS = """
import sys, torch
import novelview
from novelview.losses.pointmap import pointmap_loss
means = torch.randn(1, 50, 3, requires_grad=True)
pointmap_loss(means, torch.randn(1, 50, 3)).mean().backward()
assert "scipy.spatial" in sys.modules
"""
ROOMS = [
    *("source=rooms", "source.train_scenes=2", "source.test_seen_scenes=1", "source.test_new_scenes=1"),
    *("source.frames=12", "source.height=28", "source.width=28", "source.gaps=[6,9]", "io.out=raw"),
]
TRAINING = [
    *("model=ptlvsm", "model.n_layer=1", "model.transformer.d=16", "model.transformer.d_head=8"),
    *(
        "model.dino.embed_dim=16",
        "model.dino.num_heads=2",
        "model.dino.depth=1",
        "model.dino.img_size=28",
        "model.patch_size=14",
        "model.dino.patch_size=14",
    ),
    *("views.image_size=28", "views.min_frame_dist=7", "views.max_frame_dist=11"),
    *("train.steps=2", "train.warmup=1", "train.batch_size=1", "io.packed=packed", "io.out=model.safetensors"),
]


def name_of(requirement: str) -> str:
    """Return the name in a requirement, as indices compare it."""
    found = re.match(r"[A-Za-z0-9_.-]+", requirement)
    assert found
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def alone(folder: Path, package: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python in `folder` with the package at `package` and nothing but its base dependencies."""
    base = " ".join(name_of(one) for one in PROJECT["dependencies"])
    command = [sys.executable, "-c", ALONE, base, *words]
    environment = {"PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, so that nothing is left in the checkout."""
    place = tmp_path_factory.mktemp("wheel")
    for name in ("src", "kernels", "conf"):
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place)
    words = ["pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--quiet", "-w", "out", "."]
    done = subprocess.run([sys.executable, "-m", *words], cwd=place, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next((place / "out").glob("*.whl"))


def test_a_wheel_holds_the_configuration_and_not_the_tools(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    conf = {str(path.relative_to(ROOT)) for path in (ROOT / "conf").rglob("*") if path.is_file()}
    assert {f"novelview/{name}" for name in conf} <= names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"novelview", "novelview_kernels"}


def test_the_wheel_trains_in_an_empty_folder_with_its_base_dependencies(wheel: Path, tmp_path: Path) -> None:
    package, place = tmp_path / "package", tmp_path / "place"
    place.mkdir()
    zipfile.ZipFile(wheel).extractall(package)
    run = ["runtime.progress=false", "runtime.device=cpu"]
    for words in (
        ["-c", LOSS],
        ["novelview.stages", "train", "--help"],
        ["novelview.stages", "download", *ROOMS, *run],
        ["novelview.stages", "preprocess", "io.raw=raw", "io.out=packed", *run],
        ["novelview.stages", "train", *TRAINING, *run],
    ):
        done = alone(place, package, *words)
        assert done.returncode == 0, f"{words[:2]}: {done.stderr[-3000:]}"
    assert (place / "model.safetensors").stat().st_size > 10_000
    assert "wandb cannot go offline (this needs wandb" in done.stderr
    done = alone(place, package, "novelview.stages", "figures", "figure=gaps", "io.out=gaps")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "needs matplotlib, which is not installed: pip install 'novelview[figures]'" in done.stderr


def test_every_stage_can_be_imported_where_there_is_no_triton() -> None:
    names = sorted(path.stem for path in (ROOT / "src/novelview/stages").glob("[!_]*.py"))
    code = f"import sys; sys.modules['triton'] = None; from novelview.stages import {', '.join(names)}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_an_absent_package_names_the_extra_that_brings_it() -> None:
    for package, extra in EXTRAS.items():
        line = missing_extra(ModuleNotFoundError(name=f"{package}.deep"))
        assert line and f"'novelview[{extra}]'" in line
        assert package in map(name_of, PROJECT["optional-dependencies"][extra])
    assert missing_extra(ModuleNotFoundError(name="nothing")) is None


def test_everything_named_has_a_pin_and_triton_is_for_linux() -> None:
    pins = {name_of(line) for line in (ROOT / "constraints.txt").read_text().split()}
    extras = PROJECT["optional-dependencies"]
    named = [*PROJECT["dependencies"], *(one for group in extras.values() for one in group)]
    assert {name_of(one) for one in named} - {"novelview"} <= pins
    assert "triton; sys_platform == 'linux'" in PROJECT["dependencies"]
    assert set(extras) == {"dev", "figures", "photos", "tracking", "workflow"}


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
