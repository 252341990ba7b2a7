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
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
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
Record = dict[str, Any]  # key, split, entries of a room


@dataclass
class MadeRoom:
    """One finished room: what goes into its chunk, and its entry in each evaluation index."""

    scene: ChunkScene
    entries: Entries


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
            with RoomWriter(written, folder) as writer:
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
            filmed = (_film(source, *job, device) for job in jobs)
            yield from _in_order((pool.submit(_finish, *item, source.jpeg_quality) for item in filmed), AHEAD * threads)
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


def make(source: RoomsSource, split: str, number: int) -> MadeRoom:
    """Film and finish a room on the CPU: the whole job of a worker process."""
    return _finish(*_film(source, split, number), source.jpeg_quality)


def _film(source: RoomsSource, split: str, number: int, device: str = "cpu") -> tuple[Room, Tensor, Entries]:
    """Return a room, its frames as RGB bytes [n h w 3] in host memory, and, for test splits, its evaluation entries."""
    room = room_for(source, split, number)
    frames = render_frames(
        room, room.c2w, source.height, source.width, source.texture_texels, source.supersample, device
    )
    entries = {} if split == "train" else room_entries(source, room, device)
    return room, frames.cpu(), entries


def _finish(room: Room, frames: UInt8[Tensor, "n h w 3"], entries: Entries, quality: int) -> MadeRoom:
    """Encode the frames and lay the scene out as RealEstate10K does (specs/re10k_format.md section 1)."""
    images = [_jpeg(frame, quality) for frame in frames]
    timestamps = torch.arange(len(images), dtype=torch.int64) * FRAME_MICROSECONDS
    scene = ChunkScene(room.key, room.url, timestamps, camera_rows(room.c2w, room.intrinsics), images)
    return MadeRoom(scene, entries)


def _jpeg(frame: UInt8[Tensor, "h w 3"], quality: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(frame.numpy()).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def camera_rows(c2w: Float[Tensor, "n 4 4"], intrinsics: Float[Tensor, " 4"]) -> Float[Tensor, "n 18"]:
    """Return float32 camera vectors: normalised intrinsics, two zeros, the 3x4 world-to-camera matrix."""
    rotation, place = c2w[:, :3, :3].transpose(1, 2), c2w[:, :3, 3:]
    w2c = torch.cat([rotation, -(rotation @ place)], dim=2).reshape(-1, 12)
    lens = torch.cat([intrinsics, intrinsics.new_zeros(2)]).expand(len(c2w), 6)
    return torch.cat([lens, w2c], dim=1).float()


def split_names(source: RoomsSource) -> list[str]:
    """Return the names of the evaluation indices a source writes."""
    return [*CLASSES, "extrapolation", "full", *(f"gap{gap}" for gap in source.gaps)]


def room_entries(source: RoomsSource, room: Room, device: str = "cpu") -> dict[str, dict[str, Any] | None]:
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
    by_gap = {f"gap{gap}": [pair for pair in pairs if pair[1] - pair[0] == gap] for gap in source.gaps}
    candidates = {
        **{name: [pair for pair in pairs if low < table[pair] <= high] for name, (low, high) in CLASSES.items()},
        "extrapolation": [pair for pair in narrow if len(_around(source, pair)) >= source.targets],
        "full": [pair for pair in seen if pair[1] - pair[0] >= half],
        **by_gap,
    }
    choices = {"extrapolation": _outside, **dict.fromkeys(by_gap, _evenly)}
    rows: dict[str, dict[str, Any] | None] = {}
    for name in split_names(source):
        # Drawn even where there is no choice, so that one index never shifts the draws of the next.
        pick, found = draws.uniform(0, 1), candidates[name]
        rows[name] = None
        if found:
            pair = found[int(pick * len(found))]
            targets = choices.get(name, _inside)(draws, source, pair)
            rows[name] = {"context": list(pair), "target": targets, "overlap": round(table[pair], 6)}
    return rows


def _pairs(source: RoomsSource, draws: Draws) -> list[Pair]:
    """All pairs with room for the targets inside, on a coarser grid for long clips, and one pair of every gap."""
    step = -(-source.frames // MOST_FRAMES)
    grid = range(0, source.frames, step)
    pairs = {(first, second) for first in grid for second in grid if second - first > source.targets}
    starts = [(draws.integer(0, source.frames - 1 - gap), gap) for gap in source.gaps]
    return sorted(pairs | {(start, start + gap) for start, gap in starts})


def _around(source: RoomsSource, pair: Pair) -> list[int]:
    gap = pair[1] - pair[0]
    before, after = range(max(0, pair[0] - gap), pair[0]), range(pair[1] + 1, min(source.frames, pair[1] + gap + 1))
    return [*before, *after]


def _outside(draws: Draws, source: RoomsSource, pair: Pair) -> list[int]:
    around = _around(source, pair)
    return [around[number] for number in draws.sample(source.targets, len(around))]


def _inside(draws: Draws, source: RoomsSource, pair: Pair) -> list[int]:
    return [pair[0] + 1 + number for number in draws.sample(source.targets, pair[1] - pair[0] - 1)]


def _evenly(_: Draws, source: RoomsSource, pair: Pair) -> list[int]:
    gap, parts = pair[1] - pair[0], source.targets + 1
    return [pair[0] + (2 * number * gap + parts) // (2 * parts) for number in range(1, parts)]


class WrittenRooms:
    """The rooms of all finished chunks in `out` and of the one under way, in the order of making.

    entries: scene key -> its entry in each index; sets: scene key -> {"set": split}.
    """

    def __init__(self, out: Path, chunk_bytes: int, units: Unfinished | None, train: int) -> None:
        """Take up what `units` records; chunks of `out` that it does not record, or that changed, are removed.

        train: training rooms in all; test rooms are taken up only after all of these.
        """
        self.out, self.chunk_bytes, self.units = out, chunk_bytes, units
        self.entries: dict[str, Entries] = {}
        self.sets: dict[str, dict[str, str]] = {}
        self.chunks = {folder: self._kept(folder) for folder in ("train", "test")}
        self.pending = self._pending() if units else {}
        if self.count("train") < train:
            self.chunks["test"] = []
            self.pending = self.pending if self.pending.get("folder") == "train" else {}
        for folder, chunks in self.chunks.items():
            for stale in [*sorted((out / folder).glob("*.torch"))[len(chunks) :], out / folder / "index.json"]:
                stale.unlink(missing_ok=True)
        for records in [*self.chunks["train"], *self.chunks["test"], self.pending.get("rooms", [])]:
            self.note(records)

    def __len__(self) -> int:
        return len(self.sets)

    def count(self, folder: str) -> int:
        """Return the rooms of train or test that are written, or wait for their chunk to fill."""
        waiting = self.pending["rooms"] if self.pending.get("folder") == folder else []
        return sum(map(len, self.chunks[folder])) + len(waiting)

    def note(self, records: list[Record]) -> None:
        """Take rooms into the indices."""
        for record in records:
            self.sets[record["key"]] = {"set": record["split"]}
            self.entries[record["key"]] = record["entries"]

    def _kept(self, folder: str) -> list[list[Record]]:
        found: list[list[Record]] = []
        while self.units is not None:
            record = self.units.read_json(f"{folder}-{len(found):06d}")
            path = self.out / folder / f"{len(found):06d}.torch"
            if record is None or not path.is_file() or sha256(path) != record["sha256"]:
                break
            found.append(record["rooms"])
        return found

    def _pending(self) -> dict[str, Any]:
        """Return {folder, rooms} of the unfinished chunk; nothing where it is not the one after those kept."""
        assert self.units is not None
        found = self.units.read_json(PENDING) or {}
        path = self.units.folder / f"{PENDING}.torch"
        if not found or found["chunk"] != len(self.chunks[found["folder"]]) or not path.is_file():
            return {}
        return found if sha256(path) == found["sha256"] else {}


class RoomWriter(ChunkWriter):
    """Writes train or test, standing after what is written, and records what it wrote.

    When its body raises, the rooms of the open chunk are kept as well.
    """

    def __init__(self, written: WrittenRooms, folder: str) -> None:
        super().__init__(written.out / folder, written.chunk_bytes)
        self.written, self.name, self.units = written, folder, written.units
        self.records: list[Record] = []
        for records in written.chunks[folder]:
            self.index |= dict.fromkeys((record["key"] for record in records), self._name())
            self._chunks += 1
        if written.pending.get("folder") == folder:
            assert self.units is not None
            scenes = read_chunk(self.units.folder / f"{PENDING}.torch")
            for scene, record in zip(scenes, written.pending["rooms"], strict=True):
                self.records.append(record)
                self.add(scene)

    def add_room(self, room: MadeRoom, split: str) -> None:
        """Append a room."""
        record = {"key": room.scene.key, "split": split, "entries": room.entries}
        self.written.note([record])
        self.records.append(record)
        self.add(room.scene)

    def _flush(self) -> None:
        name, records, self.records = self._name(), self.records, []
        super()._flush()
        if self.units is not None:
            kept = {"rooms": records, "sha256": sha256(self.folder / name)}
            self.units.keep_json(f"{self.name}-{self._chunks - 1:06d}", kept)

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None and self.units is not None and self._pending:
            path = self.units.folder / f"{PENDING}.torch"
            self.units.drop(PENDING)
            write_chunk(path, self._pending)
            place = {"folder": self.name, "chunk": self._chunks}
            self.units.keep_json(PENDING, {**place, "rooms": self.records, "sha256": sha256(path)})
        super().__exit__(kind, *rest)
