"""The device a process works on, precision there, and the processes of one run: alone, or several by torchrun."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from novelview.errors import ConfigError

if TYPE_CHECKING:  # PM-Loss, which needs this file, is usable without the configuration
    from novelview.config.schema import RuntimeConfig


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """Return the device for `runtime.device`: auto takes a GPU when there is one."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError("runtime.device=cuda: no usable GPU here; set runtime.device=cpu or auto")
    if name == "cpu" or not available:
        return torch.device("cpu")
    return torch.device("cuda", local_rank)


def full_precision(value: Tensor) -> AbstractContextManager[Any]:
    """Return the context without autocast on the device of `value`; tensors on `meta` know no autocast at all."""
    return nullcontext() if value.is_meta else torch.autocast(value.device.type, enabled=False)


@dataclass(frozen=True)
class Team:
    """This process' place: `rank` of `world` processes, computing on `device`; by default alone on the CPU."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

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
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
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
def team(runtime: RuntimeConfig) -> Iterator[Team]:
    """Join the run described by torchrun's environment (RANK, WORLD_SIZE, LOCAL_RANK), or run alone without it.

    Several speak nccl on GPUs, gloo on CPUs. Only the leading process logs below warnings. Raises ConfigError when the
    asked-for device is not there.
    """
    rank, local = (int(os.environ.get(key, 0)) for key in ("RANK", "LOCAL_RANK"))
    world = int(os.environ.get("WORLD_SIZE", 1))
    device = pick_device(runtime.device, local)
    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    if world == 1:
        yield Team(rank, world, device)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    logger = logging.getLogger("novelview")
    level = logger.level
    try:
        logger.setLevel(logging.WARNING if rank > 0 else level)
        yield Team(rank, world, device)
    finally:
        logger.setLevel(level)
        dist.destroy_process_group()
