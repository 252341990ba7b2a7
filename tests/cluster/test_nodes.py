"""One run over two nodes: srun starts torchrun on each, and both nodes are this machine."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
from submitted import Submitted, jobs, wait_for

pytestmark = pytest.mark.slow
TWO_NODES = ("gpu=2", "nodes=2", "mpi='srun'", "tasks=2", "tasks_per_gpu=0")


def resources(*values: str, extra: str = "--signal=USR1@10 --gpus-per-node=1") -> list[str]:
    return ["--set-resources", *(f"pretrain_model:{value}" for value in (*values, f"slurm_extra='{extra}'"))]


@pytest.fixture(scope="module")
def one_node(trained: Submitted, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    checkout = Submitted(tmp_path_factory.mktemp("one_node"), trained)
    checkout.finish(checkout.start(checkout.PRETRAINED, *resources("gpu=2", extra="--signal=USR1@10")))
    return checkout.weights()


def test_two_nodes_equal_one_with_as_many_processes(one_node: dict[str, bytes], trained: Submitted, packed: Submitted):
    said = packed.finish(packed.start(packed.PRETRAINED, *resources(*TWO_NODES)))
    told = subprocess.run(["squeue", "-h", "-t", "all", "-j", jobs(said)[0], "-o", "%D %N"], capture_output=True)
    assert told.stdout.split()[:1] == [b"2"]
    assert packed.weights() == one_node
    assert one_node != trained.weights(), "two processes saw the batches of one"


def test_two_nodes_stop_and_go_on_together(one_node: dict[str, bytes], packed: Submitted) -> None:
    """The warning reaches the processes on both nodes; the state is whole when both have gone."""
    process = packed.start(packed.PRETRAINED, *resources(*TWO_NODES))
    wait_for(packed.states, process)
    paused = packed.training()
    for pid in paused:
        os.kill(pid, signal.SIGSTOP)
    (job,) = jobs((packed.folder / "said").read_text())
    subprocess.run(["scancel", "--signal=USR1", job], check=True)
    for pid in paused:
        os.kill(pid, signal.SIGCONT)
    said = packed.finish(process)
    assert len(paused) == 2 and len(jobs(said)) == 2
    assert (
        "stopped by SIGUSR1 after step"
        in Path(next(packed.folder.glob(f"logs/slurm/rule_pretrain_model/*/{job}.log"))).read_text()
    )
    assert "resuming from" in (packed.folder / "logs/train/demo-uplvsm-rooms-full-pretrain-x28.log").read_text()
    assert packed.weights() == one_node
