"""A tiny checkout that submits to SLURM through the shipped profile."""

import itertools
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from checkout import Checkout


class Submitted(Checkout):
    """The tiny checkout; its jobs go to SLURM with the shipped profile, asked about their state more often."""

    how = (
        *("--profile", "profiles/slurm", "--slurm-status-command", "squeue"),
        *("--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "5"),
    )
    STEPS = "train.steps=30"
    PRETRAINED = "results/demo/models/uplvsm/rooms-full/pretrain-x28/model.safetensors"

    def __init__(self, folder: Path, like: "Submitted | None" = None) -> None:
        """Copy the project; `like`: a finished checkout whose data, and what is known of them, come along."""
        super().__init__(folder)
        self.started: list[subprocess.Popen[str]] = []
        if like is not None:
            for part in ("data", ".snakemake/metadata"):
                shutil.copytree(like.folder / part, folder / part)

    def command(self, *arguments: str, more: str = "") -> list[str]:
        return super().command(*arguments, more=f"{self.STEPS} {more}")

    def start(self, *arguments: str, more: str = "") -> subprocess.Popen[str]:
        """Start Snakemake; what it says goes to the file `said`."""
        with open(self.folder / "said", "w") as stream:
            command = self.command(*arguments, more=more)
            files = {"stdout": stream, "stderr": stream, "cwd": self.folder}
            process = subprocess.Popen(command, **files, text=True, start_new_session=True, preexec_fn=_hear_ctrl_c)
        self.started.append(process)
        return process

    def end(self) -> None:
        """Cancel what a failed test has left running."""
        for process in self.started:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait(timeout=120)

    def finish(self, process: subprocess.Popen[str]) -> str:
        """Wait for the good end; return what Snakemake said."""
        status = process.wait(timeout=3600)
        said = (self.folder / "said").read_text()
        assert status == 0, said[-6000:]
        return said

    def training(self) -> list[int]:
        """Return the processes that train in this checkout."""
        return [int(path.name) for path in Path("/proc").glob("[0-9]*") if self._trains(path)]

    def _trains(self, process: Path) -> bool:
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            trains = (b"-m", b"novelview.stages.train") in itertools.pairwise(words)
            starts_others = b"torch.distributed.run" in words
            return trains and not starts_others and (process / "cwd").readlink() == self.folder
        except OSError:  # the process has gone
            return False

    def states(self) -> list[Path]:
        """Return the training states that are whole."""
        return sorted((self.folder / "checkpoints").rglob("[!.]*.pt"))


def _hear_ctrl_c() -> None:
    """Undo what a shell does to commands in the background, whose children inherit it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def jobs(said: str) -> list[str]:
    """Return the SLURM jobs Snakemake says to have submitted, in order."""
    return re.findall(r"submitted with SLURM jobid (\d+)", said)


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str], seconds: float = 900) -> None:
    """Wait until `condition()` holds while the process runs."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, "Snakemake ended before"
        assert time.monotonic() < end, "it never came to this"
        time.sleep(0.01)
