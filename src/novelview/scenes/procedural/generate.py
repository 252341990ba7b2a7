"""Rooms as a data set: RealEstate10K chunks, evaluation indices and sets, the same for any number of workers.

A record is kept of every finished chunk, so that a stopped call goes on after its last room.
"""

import io
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from novelview.config.sources import RoomsSource, check_source
from novelview.errors import DataError
from novelview.files import sha256, write_json
from novelview.scenes.chunks import ChunkScene, ChunkWriter, read_chunk, write_chunk
from novelview.scenes.procedural.layout import Draws, Room, room_for, room_seed
from novelview.scenes.procedural.rendering import overlaps, render_frames
from novelview.timebox import TimeBox, Unfinished

AHEAD = 2  # finished or running rooms a worker may be ahead of the writer
FRAME_MICROSECONDS = 33_333
PENDING = "pending"  # the rooms of a chunk that is not full yet
CLASSES = {"small": (0.05, 0.3), "medium": (0.3, 0.55), "large": (0.55, 0.8)}  # specs/re10k_format.md section 4
LEAST_OVERLAP = 0.05
MOST_FRAMES = 48  # longer clips are searched for pairs on a coarser grid of frames
Job = tuple[str, int]  # split and number of a room
Pair = tuple[int, int]
Entries = dict[str, dict[str, Any] | None]  # a room's entry in each index (none for training rooms)
MadeRoom = tuple[ChunkScene, Entries]
Record = dict[str, Any]  # key, split, entries of a room


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
    renders and `workers` threads encode. units: what an earlier call finished in `out`; other chunks there are removed.
    Raises ConfigError for values that make no rooms, DataError when a worker process dies, BoxEnded when the time of
    `box` is over, after one new room at least.
    """
    check_source(source)
    counts = {"train": source.train_scenes, "seen": source.test_seen_scenes, "new": source.test_new_scenes}
    jobs = [(split, number) for split, count in counts.items() for number in range(count)]
    written, box = WrittenRooms(out, source.chunk_bytes, units, source.train_scenes), box or TimeBox()
    done = len(written.rooms)
    rooms = _made(source, jobs[done:], workers, device)
    with tqdm(total=len(jobs), initial=done, desc="rooms", unit="room", disable=not progress) as bar:
        for folder, splits in (("train", ["train"]), ("test", ["seen", "new"])):
            with RoomWriter(written, folder) as writer:
                todo = [split for split, _ in jobs[done:] if split in splits]
                for split, room in zip(todo, rooms, strict=False):  # `todo` is the shorter: it ends the loop
                    writer.add_room(room, split)
                    bar.update()
                    box.unit()
    for name in split_names(source):
        rows = {room["key"]: room["entries"][name] for room in written.rooms if room["entries"]}
        write_json(out / "indices" / f"{name}.json", rows)
    write_json(out / "scenes.json", {room["key"]: {"set": room["split"]} for room in written.rooms})


def _made(source: RoomsSource, jobs: list[Job], workers: int, device: str) -> Iterator[MadeRoom]:
    """Make rooms in the order of `jobs`, a bounded number at a time."""
    if torch.device(device).type == "cuda":
        threads = max(workers, 1)
        with ThreadPoolExecutor(threads) as pool:
            filmed = (_film(source, *job, device) for job in jobs)
            yield from _in_order((pool.submit(_finish, *item, source.jpeg_quality) for item in filmed), AHEAD * threads)
    elif workers > 0:
        yield from _by_processes(source, jobs, workers)
    else:
        yield from (make(source, *job) for job in jobs)


def _by_processes(source: RoomsSource, jobs: list[Job], workers: int) -> Iterator[MadeRoom]:
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=spawn, initializer=_start_worker)
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
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def make(source: RoomsSource, split: str, number: int) -> MadeRoom:
    """Film and finish a room on the CPU: the whole job of a worker process."""
    return _finish(*_film(source, split, number), source.jpeg_quality)


def _film(source: RoomsSource, split: str, number: int, device: str = "cpu") -> tuple[Room, Tensor, Entries]:
    """Return a room, its frames as RGB bytes [n h w 3] in host memory, and, for test splits, its evaluation entries."""
    room = room_for(source, split, number)
    texels, size = source.texture_texels, (source.height, source.width)
    frames = render_frames(room, room.c2w, *size, texels, source.supersample, device)
    entries = {} if split == "train" else room_entries(source, room, device)
    return room, frames.cpu(), entries


def _finish(room: Room, frames: UInt8[Tensor, "n h w 3"], entries: Entries, quality: int) -> MadeRoom:
    """Encode the frames and lay the scene out as RealEstate10K does (specs/re10k_format.md section 1)."""
    images: list[bytes] = []
    for frame in frames:
        stream = io.BytesIO()
        Image.fromarray(frame.numpy()).save(stream, "JPEG", quality=quality)
        images.append(stream.getvalue())
    timestamps = torch.arange(len(images), dtype=torch.int64) * FRAME_MICROSECONDS
    url = f"novelview://rooms/{room.split}/{room.number}"  # names the room completely, given the source
    return ChunkScene(room.key, url, timestamps, camera_rows(room.c2w, room.intrinsics), images), entries


def camera_rows(c2w: Float[Tensor, "n 4 4"], intrinsics: Float[Tensor, " 4"]) -> Float[Tensor, "n 18"]:
    """Return float32 camera vectors: normalised intrinsics, two zeros, the 3x4 world-to-camera matrix."""
    rotation, place = c2w[:, :3, :3].transpose(1, 2), c2w[:, :3, 3:]
    w2c = torch.cat([rotation, -(rotation @ place)], dim=2).reshape(-1, 12)
    lens = torch.cat([intrinsics, intrinsics.new_zeros(2)]).expand(len(c2w), 6)
    return torch.cat([lens, w2c], dim=1).float()


def split_names(source: RoomsSource) -> list[str]:
    """Return the names of the evaluation indices a source writes."""
    return [*CLASSES, "extrapolation", "full", *(f"gap{gap}" for gap in source.gaps)]


def room_entries(source: RoomsSource, room: Room, device: str = "cpu") -> Entries:
    """Return, for every index name, the room's entry {context, target, overlap}, or None when no pair qualifies.

    small, medium, large: a pair whose overlap lies in (0.05, 0.3], (0.3, 0.55], (0.55, 0.8]; targets strictly inside.
    full: a pair at least half the clip apart with overlap of 0.05 or more. extrapolation: a pair a third to half the
    clip apart, targets outside and no farther from it than its gap. gapN: a pair N frames apart, targets evenly inside.
    """
    draws = Draws(room_seed(source.seed, f"{room.split} entries", room.number))
    pairs = _pairs(source, draws)
    table = dict(zip(pairs, overlaps(room, pairs, device), strict=True))
    half, seen = source.frames // 2, [pair for pair in pairs if table[pair] >= LEAST_OVERLAP]
    narrow = [pair for pair in seen if source.frames // 3 <= pair[1] - pair[0] <= half]
    gaps = {gap: [pair for pair in pairs if pair[1] - pair[0] == gap] for gap in source.gaps}
    classes = {name: [pair for pair in pairs if low < table[pair] <= high] for name, (low, high) in CLASSES.items()}
    candidates = {
        **{name: (found, _inside) for name, found in classes.items()},
        "extrapolation": ([pair for pair in narrow if len(_around(source, pair)) >= source.targets], _outside),
        "full": ([pair for pair in seen if pair[1] - pair[0] >= half], _inside),
        **{f"gap{gap}": (found, _evenly) for gap, found in gaps.items()},
    }
    rows: Entries = {}
    for name, (found, targets) in candidates.items():
        # Drawn even where there is no choice, so that one index never shifts the draws of the next.
        pick, rows[name] = draws.uniform(0, 1), None
        if found:
            pair = found[int(pick * len(found))]
            target = targets(draws, source, pair)
            rows[name] = {"context": list(pair), "target": target, "overlap": round(table[pair], 6)}
    return rows


def _pairs(source: RoomsSource, draws: Draws) -> list[Pair]:
    """All pairs with room for the targets inside, on a coarser grid for long clips, and one pair of every gap."""
    grid = range(0, source.frames, -(-source.frames // MOST_FRAMES))
    pairs = {(first, second) for first in grid for second in grid if second - first > source.targets}
    starts = [(draws.integer(0, source.frames - 1 - gap), gap) for gap in source.gaps]
    return sorted(pairs | {(start, start + gap) for start, gap in starts})


def _around(source: RoomsSource, pair: Pair) -> list[int]:
    gap = pair[1] - pair[0]
    return [*range(max(0, pair[0] - gap), pair[0]), *range(pair[1] + 1, min(source.frames, pair[1] + gap + 1))]


def _outside(draws: Draws, source: RoomsSource, pair: Pair) -> list[int]:
    around = _around(source, pair)
    return [around[number] for number in draws.sample(source.targets, len(around))]


def _inside(draws: Draws, source: RoomsSource, pair: Pair) -> list[int]:
    return [pair[0] + 1 + number for number in draws.sample(source.targets, pair[1] - pair[0] - 1)]


def _evenly(_: Draws, source: RoomsSource, pair: Pair) -> list[int]:
    gap, parts = pair[1] - pair[0], source.targets + 1
    return [pair[0] + (2 * number * gap + parts) // (2 * parts) for number in range(1, parts)]


class WrittenRooms:
    """The rooms of all finished chunks in `out` and of the one under way.

    rooms: their records, in the order of making; chunks: folder -> the records of each finished chunk; pending: the
    records of the open chunk, by its folder.
    """

    def __init__(self, out: Path, chunk_bytes: int, units: Unfinished | None, train: int) -> None:
        """Take up what `units` records, test rooms only after all `train` training rooms; other chunks are removed."""
        self.out, self.chunk_bytes, self.units = out, chunk_bytes, units
        self.chunks = {folder: self._kept(folder) for folder in ("train", "test")}
        self.pending = self._pending()
        self.rooms = [*chain(*self.chunks["train"]), *self.pending.get("train", [])]
        if len(self.rooms) < train:
            self.chunks["test"] = []
            self.pending.pop("test", None)
        self.rooms += [*chain(*self.chunks["test"]), *self.pending.get("test", [])]
        for folder, chunks in self.chunks.items():
            for stale in [*sorted((out / folder).glob("*.torch"))[len(chunks) :], out / folder / "index.json"]:
                stale.unlink(missing_ok=True)

    def _kept(self, folder: str) -> list[list[Record]]:
        found: list[list[Record]] = []
        while self.units and (record := self.units.read_json(f"{folder}-{len(found):06d}")):
            path = self.out / folder / f"{len(found):06d}.torch"
            if not path.is_file() or sha256(path) != record["sha256"]:
                break
            found.append(record["rooms"])
        return found

    def _pending(self) -> dict[str, list[Record]]:
        """Return nothing where the unfinished chunk is not the one after those kept."""
        found = self.units.read_json(PENDING) if self.units else None
        if not self.units or not found or found["chunk"] != len(self.chunks[found["folder"]]):
            return {}
        path = self.units.folder / f"{PENDING}.torch"
        return {found["folder"]: found["rooms"]} if path.is_file() and sha256(path) == found["sha256"] else {}


class RoomWriter(ChunkWriter):
    """Writes train or test, standing after what is written, and records what it wrote.

    When its body raises, the rooms of the open chunk are kept as well.
    """

    def __init__(self, written: WrittenRooms, folder: str) -> None:
        super().__init__(written.out / folder, written.chunk_bytes)
        self.written, self.name, self.units = written, folder, written.units
        for rooms in written.chunks[folder]:
            self.index |= dict.fromkeys((room["key"] for room in rooms), self._name())
            self._chunks += 1
        if self.units and folder in written.pending:
            for scene in read_chunk(self.units.folder / f"{PENDING}.torch"):
                self.add(scene)

    def add_room(self, room: MadeRoom, split: str) -> None:
        """Append a room."""
        scene, entries = room
        self.written.rooms.append({"key": scene.key, "split": split, "entries": entries})
        self.add(scene)

    def _flush(self) -> None:
        path, rooms = self.folder / self._name(), self._open_rooms()
        super()._flush()
        if self.units:
            self.units.keep_json(f"{self.name}-{path.stem}", {"rooms": rooms, "sha256": sha256(path)})

    def _open_rooms(self) -> list[Record]:
        return self.written.rooms[-len(self._pending) :]

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None and self.units and self._pending:
            path = self.units.folder / f"{PENDING}.torch"
            self.units.drop(PENDING)
            write_chunk(path, self._pending)
            place = {"folder": self.name, "chunk": self._chunks}
            self.units.keep_json(PENDING, {**place, "rooms": self._open_rooms(), "sha256": sha256(path)})
        super().__exit__(kind, *rest)
