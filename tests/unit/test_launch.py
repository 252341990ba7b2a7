"""The words that start a stage: one process, one node, several nodes."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from guard import count_gpus
from novelview.errors import ConfigError
from novelview.stages.launch import visible_gpus, words

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


def test_visible_gpus_are_those_named_or_those_of_the_driver(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"0000:0{number}:00.0").mkdir()
    assert visible_gpus({}, tmp_path) == ["0", "1", "2"] and visible_gpus({}, tmp_path / "none") == []
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "2, GPU-5f"}, tmp_path) == ["2", "GPU-5f"]
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": ""}, tmp_path) == visible_gpus({"CUDA_VISIBLE_DEVICES": "-1"}) == []


SHOW = "import os, sys, time; open(sys.argv[1], 'w').write(os.environ['CUDA_VISIBLE_DEVICES']); time.sleep({})"


def on_four_gpus(tmp_path: Path, *words: str, visible: str = "4,5,6,7") -> subprocess.Popen[str]:
    (tmp_path / "shown.py").write_text(SHOW.format(1.5))
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SLURM")}
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    environment = {**kept, "CUDA_VISIBLE_DEVICES": visible, "TMPDIR": str(tmp_path), "PYTHONPATH": paths}
    command = [sys.executable, "-m", "novelview.stages.launch", *words]
    return subprocess.Popen(command, text=True, stderr=subprocess.PIPE, env=environment)


def test_jobs_at_a_time_have_gpus_of_their_own_and_wait_for_them(tmp_path: Path) -> None:
    jobs = [on_four_gpus(tmp_path, "--gpus", "1", "shown", str(tmp_path / f"{number}")) for number in range(6)]
    said = [job.communicate()[1] for job in jobs]
    assert [job.returncode for job in jobs] == [0] * 6, said
    shown = [(tmp_path / str(number)).read_text() for number in range(6)]
    assert set(shown) == {"4", "5", "6", "7"} and max(map(shown.count, shown)) <= 2
    assert sum("waiting for 1 of 4 GPUs" in text for text in said) >= 2


def test_more_gpus_than_there_are_and_none_at_all_are_one_line(tmp_path: Path) -> None:
    job = on_four_gpus(tmp_path, "--gpus", "8", "shown", str(tmp_path / "x"))
    assert job.communicate()[1].startswith("error: gpu=8: 4 GPUs are visible here") and job.returncode == 2
    job = on_four_gpus(tmp_path, "--gpus", "8", "shown", str(tmp_path / "x"), visible="")
    assert job.communicate()[1].startswith("gpu=8: no GPU is visible here; working on the CPU") and job.returncode == 0
    assert (tmp_path / "x").read_text() == ""


class Pretended:
    """As much of a workflow as counting takes."""

    is_main_process = True

    def __init__(self, nodes: int | None, **resources: int) -> None:
        self.global_resources = {"_nodes": SimpleNamespace(value=nodes), **resources}

    def register_resource(self, name: str, value: int) -> None:
        self.global_resources[name] = value


@pytest.mark.parametrize(
    ("visible", "workflow", "limit", "told"),
    [
        ("0,1,2", Pretended(None), 3, False),
        ("0,1,2", Pretended(None, gpu=2), 2, False),
        ("0,1,2", Pretended(40), None, False),
        ("", Pretended(None), None, True),
    ],
)
def test_the_visible_gpus_limit_local_jobs(visible, workflow, limit, told, monkeypatch, capsys) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    count_gpus(workflow, asked=True)
    assert workflow.global_resources.get("gpu") == limit
    assert ("no GPU is visible" in capsys.readouterr().err) is told
