"""Training batches in order: in the main process, or ahead of it in worker processes, with the same content."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from novelview.errors import NovelviewError
from novelview.scenes.batch import Batch
from novelview.scenes.dataset import TrainSet
from novelview.scenes.frames import RawBatch

PREFETCH = 4  # batches a worker prepares ahead
SHARED = Path("/dev/shm")  # where batches travel from worker to trainer
log = logging.getLogger(__name__)


def affordable(workers: int, batch_bytes: int, folder: Path = SHARED) -> int:
    """Return `workers`, or 0 with a warning where their batches do not fit the memory they travel through.

    Containers often have 64 MB of it, and a worker that finds it full is killed by a bus error without a word.
    """
    if not workers or not folder.is_dir():
        return workers
    free, needed = shutil.disk_usage(folder).free, (workers * PREFETCH + 1) * batch_bytes
    if free >= needed:
        return workers
    log.warning(
        "%s has %d MB free and %d loader processes need %d: this process loads the frames itself, which is slower; "
        "give the container more shared memory or set a lower runtime.workers",
        *(folder, free // 2**20, workers, needed // 2**20),
    )
    return 0


class _Share(Dataset[RawBatch | NovelviewError]):
    """Micro-batches of one process, by number; errors travel as values, since workers would wrap them in tracebacks."""

    def __init__(self, data: TrainSet, batch_size: int, rank: int, world: int) -> None:
        self.data, self.batch_size, self.rank, self.world = data, batch_size, rank, world

    def __getitem__(self, number: int) -> RawBatch | NovelviewError:
        try:
            return self.data.batch(number, self.batch_size, self.rank, self.world)
        except NovelviewError as error:
            return error


class TrainLoader:
    """Batches of process `rank` of `world` on `device`, prepared by `workers` processes (0: this one).

    A batch depends on the set's seed, its number, `rank`, `world` and `batch_size` alone, never on `workers`.
    """

    def __init__(
        self,
        data: TrainSet,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        workers: int = 0,
    ) -> None:
        self.share = _Share(data, batch_size, rank, world)
        self.device, self.workers = torch.device(device), workers

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """Yield micro-batches number `start` to `stop` - 1; raises DataError when frames cannot be read."""
        for raw in self._raw(range(start, stop)):
            if isinstance(raw, NovelviewError):
                raise raw
            yield raw.to_batch(self.device)

    def _raw(self, numbers: range) -> Iterator[RawBatch | NovelviewError]:
        if not self.workers:
            return map(self.share.__getitem__, numbers)
        loader = DataLoader(
            self.share,
            batch_size=None,
            sampler=numbers,
            num_workers=self.workers,
            multiprocessing_context="fork",  # so that the workers share the set's frames
            prefetch_factor=PREFETCH,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=_one_thread,
            generator=torch.Generator(),  # the loader must not draw from the generator that training saves
        )
        return iter(loader)


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
