"""One call of `make mini`: snakemake within a budget, and the state folder before and after."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from carry.studies import Mini
from novelview.errors import DataError, NovelviewError
from novelview.timebox import BOXED, ENDINGS, INTERRUPTED

PID = "mini.pid"  # below .snakemake: the snakemake that a driver started
FAREWELL = 20.0  # seconds that stages have after Ctrl-C
LEAST_RESERVE, MOST_RESERVE = 10.0, 45.0  # seconds kept for ending and packing
SHARE = 0.08  # of a budget that is kept for them


class StageFailed(NovelviewError):
    """A stage ended with an error; what was finished before it is kept."""


@dataclass
class Budget:
    """The time of one call: stages end themselves at `stop_at`, `reserve` seconds before all is over."""

    minutes: float
    started: float = field(default_factory=time.time)

    @property
    def reserve(self) -> float:
        """Seconds kept for the ends of stages and for packing."""
        return min(MOST_RESERVE, max(LEAST_RESERVE, SHARE * 60 * self.minutes))

    @property
    def stop_at(self) -> float:
        """Unix time at which stages save what they have; infinitely late without a budget."""
        return self.started + 60 * self.minutes - self.reserve if self.minutes else float("inf")

    @property
    def over(self) -> bool:
        """Whether no further stage is to be started."""
        return time.time() >= self.stop_at


@dataclass
class Driver:
    """Runs the studies of `mini` in its checkout, `cores` cores and `gpus` GPUs at most."""

    mini: Mini
    budget: Budget
    cores: str = "all"
    gpus: int = 1

    def targets(self, study: str) -> list[str]:
        """Return what is asked of a study: its report, and what it releases."""
        plan = self.mini.plans[self.mini.studies.index(study)]
        own = [one for one in self.mini.releases if one.run in plan.runs() and plan.study.releases]
        return ["all", *(["release"] if own else []), *(f"{one.place}/evaluation/summary.json" for one in own)]

    def snakemake(self, study: str, targets: Sequence[str]) -> bool:
        """Make the targets, again while stages end in a box of their own; return False when the budget ended first."""
        while not self.budget.over:
            ended = self._once(study, targets)
            if ended != BOXED:
                return ended == 0
        return False

    def _once(self, study: str, targets: Sequence[str]) -> int:
        """Call snakemake; return 0, `BOXED` when a stage's time was over, `INTERRUPTED` when it was asked to stop."""
        endings = self.mini.root / "logs" / "mini-endings.txt"
        endings.parent.mkdir(exist_ok=True)
        endings.write_text("")
        process = subprocess.Popen(
            self.words(study, targets),
            cwd=self.mini.root,
            env={**os.environ, ENDINGS: str(endings)},
            start_new_session=True,  # Ctrl-C is this process' to pass on, as a warning that stages act on
        )
        mark = self.mini.root / ".snakemake" / PID
        mark.parent.mkdir(exist_ok=True)
        mark.write_text(str(process.pid))
        late = self._wait(process)
        if not late:
            mark.unlink()
        if process.returncode == 0 or late:
            return INTERRUPTED if process.returncode else 0
        statuses = {int(line.split()[1]) for line in endings.read_text().splitlines()} - {0}
        if not statuses or statuses - {BOXED, INTERRUPTED}:
            raise StageFailed(f"study {study}: a stage failed, its message is above; what was finished before is kept")
        return INTERRUPTED if INTERRUPTED in statuses else BOXED

    def words(self, study: str, targets: Sequence[str]) -> list[str]:
        """Return the call of snakemake."""
        stop = [f"runtime.stop_at={self.budget.stop_at:.0f}"] if self.budget.minutes else []
        own = " ".join([self.mini.words, *stop]).strip()
        settings = [f"study={study}", f"scale={self.mini.scale}", *([f"set={own}"] if own else [])]
        limits = ["--cores", self.cores, "--resources", f"gpu={self.gpus}", "--scheduler", "greedy"]
        snakemake = [sys.executable, "-m", "snakemake", *targets, *limits, "--quiet", "rules"]
        return [*snakemake, "--config", *settings]

    def _wait(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait for snakemake; warn stages that outstay the budget, then kill them. Return whether that was needed.

        On Ctrl-C or SIGTERM stages are warned at once."""
        warn, kill = (self.budget.stop_at + share * self.budget.reserve for share in (0.35, 0.7))
        try:
            if _ended(process, warn):
                return False
        except KeyboardInterrupt:
            kill = time.time() + FAREWELL
        for number, until in ((signal.SIGUSR1, kill), (signal.SIGKILL, float("inf"))):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            if _ended(process, until):
                break
        return True


def _ended(process: subprocess.Popen[bytes], until: float) -> bool:
    """Wait for a process until some Unix time; return whether it has ended."""
    try:
        process.wait(None if until == float("inf") else max(0.0, until - time.time()))
    except subprocess.TimeoutExpired:
        return False
    return True


@contextmanager
def lock_checkout(root: Path) -> Iterator[None]:
    """Hold the checkout for one call at a time, and free it of the lock of a snakemake that an earlier call started.

    Raises DataError while another call, or what a killed one started, is still at work here."""
    place = root / ".snakemake"
    place.mkdir(exist_ok=True)
    with open(place / "mini.lock", "w") as stream:
        try:
            fcntl.flock(stream.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{root}: another make mini is running in this folder; wait for it") from None
        _clear_up(place)
        yield


def _clear_up(place: Path) -> None:
    """Remove the locks of a snakemake that was killed, if a driver started it; nobody else's."""
    if not (place / PID).is_file():
        return
    number = (place / PID).read_text()
    if Path(f"/proc/{number}").exists() and "snakemake" in Path(f"/proc/{number}/cmdline").read_text():
        raise DataError(f"{place.parent}: process {number} of an earlier call is still at work; wait for it, or end it")
    for left in (place / "locks").glob("*"):
        left.unlink()
    (place / PID).unlink()
