"""One SLURM cluster for all tests here, and what was once trained on it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm import Cluster, missing, running
from submitted import Submitted

REQUIRED = "NOVELVIEW_REQUIRE_CLUSTER"


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if already := running():
        yield already
        return
    if reason := missing():
        (pytest.fail if os.environ.get(REQUIRED) else pytest.skip)(reason)
    cluster = Cluster(tmp_path_factory.mktemp("slurm"))
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture(scope="session")
def trained(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Submitted:
    """One model pretrained through the cluster: three jobs, one after the other."""
    checkout = Submitted(tmp_path_factory.mktemp("trained"))
    checkout.finish(checkout.start(checkout.PRETRAINED))
    return checkout


@pytest.fixture
def packed(trained: Submitted, tmp_path: Path) -> Iterator[Submitted]:
    """A checkout of its own with packed data: its first job trains."""
    checkout = Submitted(tmp_path / "checkout", trained)
    yield checkout
    checkout.end()
