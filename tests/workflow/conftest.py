"""One tiny run of the whole study, shared by every test of this folder that starts from finished results."""

import pytest
from checkout import ALL, Checkout
from filelock import FileLock


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """The finished tiny study, one for all parallel test processes; never change it, `copy` it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if base.name.startswith("popen-") else base
    with FileLock(shared / "finished.lock"):
        if not (shared / "finished.done").exists():
            assert Checkout(shared / "finished").run() == ALL
            (shared / "finished.done").touch()
    return Checkout(shared / "finished")


@pytest.fixture(scope="module")
def finished(finished_once: Checkout, tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A module's own copy of the finished tiny study."""
    return finished_once.copy(tmp_path_factory.mktemp("checkout") / "novelview")
