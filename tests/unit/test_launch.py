"""The words that start a stage: one process, one node, several nodes."""

import os
import subprocess
import sys

import pytest

from novelview.errors import ConfigError
from novelview.stages.launch import words

COMMAND = ["novelview.stages.train", "train.steps=3"]
JOB = {"SLURM_JOB_ID": "123456"}
STEP = {**JOB, "SLURM_NODEID": "1", "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.7"}


@pytest.mark.parametrize("gpus", [0, 1])
def test_one_process_is_plain_python(gpus: int) -> None:
    assert words(gpus, 1, 8, False, COMMAND, {}) == [sys.executable, "-m", *COMMAND]


def test_one_node_is_standalone_torchrun() -> None:
    program = words(4, 1, 8, False, COMMAND, {})
    assert program[1:5] == ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=4"]
    assert program[5:] == ["-m", *COMMAND]


def test_several_nodes_start_once_a_node() -> None:
    program = words(8, 2, 12, False, COMMAND, JOB)
    options = {word for word in program if word.startswith("--")}
    assert program[0] == "srun"
    assert {"--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--gpus-per-node=4", "--cpus-per-task=12"} < options
    assert program[-5:] == ["--nodes=2", "--cpus=12", "--join", *COMMAND]
    assert not any("--gpus-per-node" in word for word in words(0, 2, 1, False, COMMAND, JOB))


def test_a_node_joins_the_others_with_its_share() -> None:
    program = words(8, 2, 12, True, COMMAND, STEP)
    assert {"--nnodes=2", "--node-rank=1", "--nproc-per-node=4", "--master-addr=10.0.0.7"} < set(program)
    assert "--master-port=18456" in program
    chosen = words(8, 2, 12, True, COMMAND, {**STEP, "MASTER_ADDR": "ib0", "MASTER_PORT": "4000"})
    assert {"--master-addr=ib0", "--master-port=4000"} < set(chosen)


@pytest.mark.parametrize(
    ("gpus", "nodes", "join", "environment", "told"),
    [
        (3, 2, False, JOB, "same number of GPUs"),
        (1, 2, False, JOB, "same number of GPUs"),
        (8, 0, False, JOB, "nodes=0"),
        (-1, 1, False, JOB, "gpu=-1"),
        (8, 2, False, {}, "need a SLURM job"),
        (8, 2, True, JOB, "SLURM_NODEID"),
    ],
)
def test_what_cannot_work_is_one_line(gpus: int, nodes: int, join: bool, environment: dict, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        words(gpus, nodes, 1, join, COMMAND, environment)
    assert "\n" not in str(caught.value)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SLURM")}
    command = [sys.executable, "-m", "novelview.stages.launch", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_the_command_line_runs_the_stage_and_passes_its_status_on() -> None:
    done = run("--gpus", "1", "novelview.stages.train", "--show-config", "model=uplvsm", "phase=pretrain", "scale=demo")
    assert done.returncode == 0 and "image_size:" in done.stdout
    assert run("novelview.stages.train", "model=nothing").returncode == 2


def test_the_command_line_tells_a_mistake_in_one_line() -> None:
    done = run("--gpus", "3", "--nodes", "2", "novelview.stages.train")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stderr.startswith("error: gpu=3, nodes=2")
