"""Training that runs into its time limit, or is killed, goes on in the next job and ends in the same weights.

Training is paused until the limit has come, and the limit brought near, so that no machine is too fast or too slow."""

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from submitted import Submitted, jobs, wait_for

pytestmark = pytest.mark.slow


def warned(pid: int) -> bool:
    """Tell whether SIGUSR1 waits for a paused process, or woke it and has ended it."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return True
    masks = [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd:", "ShdPnd:"))]
    return any(mask >> (signal.SIGUSR1 - 1) & 1 for mask in masks)


def pause(checkout: Submitted, process: subprocess.Popen[str]) -> tuple[int, str]:
    """Stop the training process after its first saved state; return it and its SLURM job."""
    wait_for(checkout.states, process)
    (pid,) = checkout.training()
    os.kill(pid, signal.SIGSTOP)
    return pid, jobs((checkout.folder / "said").read_text())[-1]


def shorten(job: str) -> None:
    """Let a running job's time limit strike between one and two minutes from now."""
    told = subprocess.run(["squeue", "-h", "-j", job, "-O", "TimeUsed"], capture_output=True, text=True, check=True)
    minutes = int(told.stdout.strip().split(":")[-2])
    subprocess.run(["scontrol", "update", f"JobId={job}", f"TimeLimit={minutes + 2}"], check=True)


def went_on(trained: Submitted, checkout: Submitted, said: str, log: Path) -> None:
    """Check that a second job resumed and ended in the undisturbed run's weights."""
    assert len(jobs(said)) == 2 and said.count("Trying to restart job") == 1
    assert "resuming from" in log.read_text()
    assert checkout.weights() == trained.weights()


def slurm_log(checkout: Submitted, job: str) -> str:
    (path,) = checkout.folder.glob(f"logs/slurm/rule_pretrain_model/*/{job}.log")
    return path.read_text()


@pytest.fixture
def log(packed: Submitted) -> Path:
    return packed.folder / "logs/train/demo-uplvsm-rooms-full-pretrain-x28.log"


def test_warned_ahead_of_its_time_limit_it_saves_and_goes_on(trained: Submitted, packed: Submitted, log: Path) -> None:
    process = packed.start(packed.PRETRAINED)
    pid, job = pause(packed, process)
    shorten(job)
    wait_for(lambda: warned(pid), process)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
    said = packed.finish(process)
    assert "stopped by SIGUSR1 after step" in slurm_log(packed, job)
    went_on(trained, packed, said, log)


def test_killed_at_its_time_limit_it_goes_on(trained: Submitted, packed: Submitted, log: Path) -> None:
    """Without the warning."""
    process = packed.start(packed.PRETRAINED, "--set-resources", "pretrain_model:slurm_extra='--nice=0'")
    _, job = pause(packed, process)
    shorten(job)
    said = packed.finish(process)
    assert "DUE TO TIME LIMIT" in slurm_log(packed, job)
    went_on(trained, packed, said, log)


def test_killed_without_a_word_it_goes_on(trained: Submitted, packed: Submitted, log: Path) -> None:
    process = packed.start(packed.PRETRAINED)
    _, job = pause(packed, process)
    subprocess.run(["scancel", "--signal=KILL", "--full", job], check=True)
    went_on(trained, packed, packed.finish(process), log)
