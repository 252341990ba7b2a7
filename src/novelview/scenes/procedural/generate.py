"""Rooms as a data set: RealEstate10K chunks, evaluation indices and sets, the same for any number of workers."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch
from tqdm import tqdm

from novelview.config.sources import RoomsSource, check_source
from novelview.errors import DataError
from novelview.files import write_json
from novelview.scenes.procedural.entries import split_names
from novelview.scenes.procedural.making import MadeRoom, film, finish, make
from novelview.scenes.procedural.written import WrittenRooms
from novelview.timebox import TimeBox
from novelview.unfinished import Unfinished

Job = tuple[str, int]  # split and number of a room
AHEAD = 2  # finished or running rooms a worker may be ahead of the writer


def generate(
    source: RoomsSource,
    out: Path,
    workers: int,
    progress: bool,
    device: str = "cpu",
    units: Unfinished | None = None,
    box: TimeBox | None = None,
) -> None:
    """Write {out}/train and {out}/test chunks with index.json, {out}/indices/*.json and {out}/scenes.json.

    `workers` processes of one thread each render on the CPU; 0 renders in this process. On "cuda" this process
    renders and `workers` threads encode. units: what an earlier call finished in `out`, which is not made again; other
    chunks there are removed first. Raises ConfigError for values that make no rooms, DataError when a worker process
    dies, BoxEnded when the time of `box` is over, after one new room at least.
    """
    check_source(source)
    train = [("train", number) for number in range(source.train_scenes)]
    seen = [("seen", number) for number in range(source.test_seen_scenes)]
    new = [("new", number) for number in range(source.test_new_scenes)]
    jobs, box = [*train, *seen, *new], box or TimeBox()
    written = WrittenRooms(out, source.chunk_bytes, units, len(train))
    rooms = _made(source, jobs[len(written) :], workers, device)
    with tqdm(total=len(jobs), initial=len(written), desc="rooms", unit="room", disable=not progress) as bar:
        for folder, own in (("train", train), ("test", [*seen, *new])):
            with written.writer(folder) as writer:
                todo = own[written.count(folder) :]
                for (split, _), room in zip(todo, rooms, strict=False):  # `todo` is the shorter: it ends the loop
                    writer.add_room(room, split)
                    bar.update()
                    box.unit()
    for name in split_names(source):
        write_json(out / "indices" / f"{name}.json", {key: row[name] for key, row in written.entries.items() if row})
    write_json(out / "scenes.json", written.sets)


def _made(source: RoomsSource, jobs: list[Job], workers: int, device: str) -> Iterator[MadeRoom]:
    """Make rooms in the order of `jobs`, a bounded number at a time."""
    if torch.device(device).type == "cuda":
        threads = max(workers, 1)
        with ThreadPoolExecutor(threads) as pool:
            filmed = (film(source, *job, device) for job in jobs)
            yield from _in_order((pool.submit(finish, item, source.jpeg_quality) for item in filmed), AHEAD * threads)
    elif workers > 0:
        yield from _by_processes(source, jobs, workers)
    else:
        yield from (make(source, *job) for job in jobs)


def _by_processes(source: RoomsSource, jobs: list[Job], workers: int) -> Iterator[MadeRoom]:
    pool: Executor = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker
    )
    try:
        yield from _in_order((pool.submit(make, source, *job) for job in jobs), AHEAD * workers)
    except BrokenProcessPool:
        raise DataError(
            "rooms: a worker process died, perhaps for want of memory; run again with a lower runtime.workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _in_order(futures: Iterable[Future[MadeRoom]], ahead: int) -> Iterator[MadeRoom]:
    waiting: deque[Future[MadeRoom]] = deque()
    for future in futures:
        waiting.append(future)
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _start_worker() -> None:
    """One thread; Ctrl-C is the parent's to handle; and no orphan when the parent is killed."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
