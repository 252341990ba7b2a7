"""One tiny run of the whole study, and one author who shares it, for every test of this folder."""

from collections.abc import Callable
from pathlib import Path

import pytest
from checkout import ALL, Checkout
from filelock import FileLock


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all parallel test processes have in common."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if base.name.startswith("popen-") else base


@pytest.fixture(scope="session")
def finished_once(shared: Path) -> Checkout:
    """The finished tiny study; never change it, `copy` it."""
    return _once(shared / "finished", _run)


@pytest.fixture(scope="module")
def finished(finished_once: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A module's own copy of the finished tiny study."""
    return finished_once.copy(tmp_path_factory.mktemp("checkout") / "novelview")


@pytest.fixture(scope="session")
def author(finished_once: Checkout, shared: Path) -> Checkout:
    """Someone who committed the finished study to git and DVC and pushed it to the folder `remote`; only clone it."""
    return _once(shared / "author", lambda folder: _share(finished_once.copy(folder), shared / "remote"))


def _once(folder: Path, make: Callable[[Path], object]) -> Checkout:
    """Return the checkout in `folder`, made by whichever process comes first."""
    done = folder.with_suffix(".done")
    with FileLock(folder.with_suffix(".lock")):
        if not done.exists():
            make(folder)
            done.touch()
    return Checkout(folder)


def _run(folder: Path) -> None:
    assert Checkout(folder).run() == ALL


def _share(author: Checkout, remote: Path) -> None:
    author.path("dvc.yaml").write_text(author.call("python", "tools/dvc_yaml.py"))
    author.call("git", "init", "--quiet", "--initial-branch=main")
    author.call("dvc", "remote", "add", "--default", "storage", str(remote))
    author.call("dvc", "commit", "--force", "--quiet")
    author.save("Results")
    author.call("dvc", "push", "--quiet")
