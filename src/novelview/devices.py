"""The device a process works on, precision there, and the processes of one run: alone, or several by torchrun."""

import logging
import multiprocessing
import os
import platform
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any  # of the configuration: PM-Loss, which needs this file, is usable without it

import torch
import torch.distributed as dist
from torch import Tensor

from novelview.errors import ConfigError
from novelview.timebox import end_with


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """Return the device for `runtime.device`: auto takes a GPU when there is one."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError("runtime.device=cuda: no usable GPU here; set runtime.device=cpu or auto")
    return torch.device("cuda", local_rank) if available and name != "cpu" else torch.device("cpu")


def processor_name() -> str:
    """Return what this machine computes with: its first GPU, else its processor, as they call themselves."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def start_worker() -> None:
    """Make this a worker process: one thread; Ctrl-C is the parent's to handle; and it ends when the parent is gone."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None and parent.pid is not None
    end_with(parent.pid)


def full_precision(value: Tensor) -> AbstractContextManager[Any]:
    """Return the context without autocast on the device of `value`; tensors on `meta` know no autocast at all."""
    return nullcontext() if value.is_meta else torch.autocast(value.device.type, enabled=False)


@dataclass(frozen=True)
class Team:
    """This process' place: `rank` of `world` processes, computing on `device`; by default alone on the CPU."""

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009 - it cannot change

    @property
    def leads(self) -> bool:
        """Whether this process writes the files and talks to the user."""
        return self.rank == 0

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """Return, for each flag, whether it is set on any process; every process must call this together."""
        if self.world == 1:
            return [bool(flag) for flag in flags]
        shared = torch.tensor([float(flag) for flag in flags], device=self.device)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        return [value > 0 for value in shared.tolist()]

    def gather(self, value: Any) -> list[Any]:
        """Return the value of every process, by rank, once all have come here."""
        values = [value] * self.world
        if self.world > 1:
            dist.all_gather_object(values, value)
        return values

    def mean(self, values: Sequence[float]) -> list[float]:
        """Return the means of `values` over the processes."""
        if self.world == 1:
            return list(values)
        shared = torch.tensor(values, dtype=torch.float32, device=self.device)
        dist.all_reduce(shared)
        return (shared / self.world).tolist()


@contextmanager
def team(runtime: Any) -> Iterator[Team]:
    """Join the run described by torchrun's environment (RANK, WORLD_SIZE, LOCAL_RANK), or run alone without it.

    runtime: a RuntimeConfig. Several speak nccl on GPUs, gloo on CPUs; only the leading one logs below warnings. Raises
    ConfigError when the asked-for device is not there."""
    rank, local = (int(os.environ.get(key, 0)) for key in ("RANK", "LOCAL_RANK"))
    own = Team(rank, int(os.environ.get("WORLD_SIZE", 1)), pick_device(runtime.device, local))
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    if own.world == 1:
        yield own
        return
    if own.device.type == "cuda":
        torch.cuda.set_device(own.device)
    dist.init_process_group("nccl" if own.device.type == "cuda" else "gloo")
    logger = logging.getLogger("novelview")
    level = logger.level
    try:
        logger.setLevel(level if own.leads else logging.WARNING)
        yield own
    finally:
        logger.setLevel(level)
        # gloo's thread drops the tensors of the last collective, which takes the interpreter's lock; the destructor of
        # the group, which DistributedDataParallel may hold to its end, has that lock and waits for the thread.
        time.sleep(0.2)
        dist.destroy_process_group()
