"""Rooms as a data set: RealEstate10K chunks, evaluation indices and sets, the same for any number of workers."""

import io
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from novelview.config.sources import RoomsSource, check_source
from novelview.devices import start_worker
from novelview.errors import worker_died
from novelview.files import sha256, write_json
from novelview.scenes.chunks import ChunkScene, ChunkWriter, read_chunk, write_chunk
from novelview.scenes.procedural.layout import Draws, Room, room_for, room_seed, scene_key
from novelview.scenes.procedural.rendering import overlaps, render_frames
from novelview.timebox import TimeBox, Unfinished

AHEAD = 2  # finished or running rooms a worker may be ahead of the writer
FRAME_MICROSECONDS = 33_333
TRANSFER = "transfer"  # the index of twins
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

    `workers` processes of one thread each render on the CPU (0: this one); on "cuda" as many threads encode. units:
    what an earlier call finished in `out`. Raises ConfigError for values that make no rooms, DataError when a worker
    process dies, BoxEnded when the time of `box` is over, after one new room at least."""
    check_source(source)
    new = max(source.test_new_scenes, source.twins)  # those beyond test_new_scenes are in no index but `transfer`
    counts = {"train": source.train_scenes, "seen": source.test_seen_scenes, "new": new, "twin": source.twins}
    jobs = [(split, number) for split, count in counts.items() for number in range(count)]
    box, train = box or TimeBox(), RoomWriter(out, "train", source.chunk_bytes, units)
    test = RoomWriter(out, "test", source.chunk_bytes, units, anew=len(train.rooms) < source.train_scenes)
    done = len(train.rooms) + len(test.rooms)
    rooms = _made(source, jobs[done:], workers, device)
    with tqdm(total=len(jobs), initial=done, desc="rooms", unit="room", disable=not progress) as bar:
        for writer, splits in ((train, ["train"]), (test, ["seen", "new", "twin"])):
            with writer:
                todo = [split for split, _ in jobs[done:] if split in splits]
                for split, (scene, entries) in zip(
                    todo, rooms, strict=False
                ):  # `todo` is the shorter: it ends the loop
                    writer.rooms.append({"key": scene.key, "split": split, "entries": entries})
                    writer.add(scene)
                    bar.update()
                    box.unit()
    written = [*train.rooms, *test.rooms]
    for name in split_names(source):
        rows = {room["key"]: room["entries"][name] for room in written if room["entries"]}
        write_json(out / "indices" / f"{name}.json", rows)
    write_json(out / "scenes.json", {room["key"]: {"set": room["split"]} for room in written})
    if source.twins:
        pairs = {key: transfer_entry(source, number) for number in range(source.twins) for key in _pair(source, number)}
        write_json(out / "indices" / f"{TRANSFER}.json", pairs)


def _pair(source: RoomsSource, number: int) -> tuple[str, str]:
    """Return the keys of a new room and of its twin."""
    return scene_key(source.seed, "new", number), scene_key(source.seed, "twin", number)


def transfer_entry(source: RoomsSource, number: int) -> dict[str, Any]:
    """Return the frames of a pair of twins: contexts the middle one of the gaps apart, targets evenly inside."""
    draws, gap = Draws(room_seed(source.seed, "transfer", number)), sorted(source.gaps)[len(source.gaps) // 2]
    first = draws.integer(0, source.frames - 1 - gap)
    pair = first, first + gap
    return {"context": list(pair), "target": _evenly(draws, source, pair), "pair": number}


def _made(source: RoomsSource, jobs: list[Job], workers: int, device: str) -> Iterator[MadeRoom]:
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
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), start_worker)
    try:
        yield from _in_order((pool.submit(make, source, *job) for job in jobs), AHEAD * workers)
    except BrokenProcessPool:
        raise worker_died("rooms") from None
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


def make(source: RoomsSource, split: str, number: int) -> MadeRoom:
    """Film and finish a room on the CPU: the whole job of a worker process."""
    return _finish(*_film(source, split, number), source.jpeg_quality)


def _film(source: RoomsSource, split: str, number: int, device: str = "cpu") -> tuple[Room, Tensor, Entries]:
    room, size = room_for(source, split, number), (source.height, source.width)
    frames = render_frames(room, room.c2w, *size, source.texture_texels, source.supersample, device)
    judged = split == "seen" or (split == "new" and number < source.test_new_scenes)
    return room, frames.cpu(), room_entries(source, room, device) if judged else {}


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
    return [*CLASSES, "extrapolation", "full", *(f"gap{gap}" for gap in source.gaps)]


def room_entries(source: RoomsSource, room: Room, device: str = "cpu") -> Entries:
    """Return, for every index name, the room's entry {context, target, overlap}, or None when no pair qualifies.

    small, medium, large: an overlap in `CLASSES`, targets inside. full: at least half the clip apart. extrapolation: a
    third to half of it apart, targets outside, no farther than the gap. gapN: N frames apart, targets evenly inside."""
    draws = Draws(room_seed(source.seed, f"{room.split} entries", room.number))
    # All pairs with room for the targets inside, on a coarser grid for long clips, and one pair of every gap.
    grid = range(0, source.frames, -(-source.frames // MOST_FRAMES))
    found = {(first, second) for first in grid for second in grid if second - first > source.targets}
    starts = [(draws.integer(0, source.frames - 1 - gap), gap) for gap in source.gaps]
    pairs = sorted(found | {(start, start + gap) for start, gap in starts})
    table = dict(zip(pairs, overlaps(room, pairs, device), strict=True))
    half, seen = source.frames // 2, [pair for pair in pairs if table[pair] >= LEAST_OVERLAP]
    narrow = [pair for pair in seen if source.frames // 3 <= pair[1] - pair[0] <= half]
    candidates: dict[str, tuple[list[Pair], Callable[..., list[int]]]] = {}
    for name, (low, high) in CLASSES.items():
        candidates[name] = [pair for pair in pairs if low < table[pair] <= high], _inside
    candidates["extrapolation"] = [one for one in narrow if len(_around(source, one)) >= source.targets], _outside
    candidates["full"] = [pair for pair in seen if pair[1] - pair[0] >= half], _inside
    for gap in source.gaps:
        candidates[f"gap{gap}"] = [pair for pair in pairs if pair[1] - pair[0] == gap], _evenly
    rows: Entries = {}
    for name, (found, targets) in candidates.items():
        # Drawn even where there is no choice, so that one index never shifts the draws of the next.
        pick, rows[name] = draws.uniform(0, 1), None
        if found:
            pair = found[int(pick * len(found))]
            target = targets(draws, source, pair)
            rows[name] = {"context": list(pair), "target": target, "overlap": round(table[pair], 6)}
    return rows


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


class RoomWriter(ChunkWriter):
    """Writes train or test after what `units` records there, and records what it wrote, an open chunk too."""

    def __init__(self, out: Path, name: str, chunk_bytes: int, units: Unfinished | None, anew: bool = False) -> None:
        super().__init__(out / name, chunk_bytes)
        self.name, self.units, self.rooms = name, units, list[Record]()
        while units and not anew and (rooms := _whole(units, f"{name}-{self._chunks:06d}", self.folder / self._name())):
            self.rooms += rooms
            self.index |= dict.fromkeys((room["key"] for room in rooms), self._name())
            self._chunks += 1
        for stale in [*sorted(self.folder.glob("*.torch"))[self._chunks :], self.folder / "index.json"]:
            stale.unlink(missing_ok=True)
        place = {"folder": name, "chunk": self._chunks}
        if units and not anew and (rooms := _whole(units, PENDING, units.folder / f"{PENDING}.torch", place)):
            self.rooms += rooms
            for scene in read_chunk(units.folder / f"{PENDING}.torch"):
                self.add(scene)

    def _flush(self) -> None:
        path, rooms = self.folder / self._name(), self.rooms[-len(self._pending) :]
        super()._flush()
        if self.units:
            self.units.keep_json(f"{self.name}-{path.stem}", {"rooms": rooms, "sha256": sha256(path)})

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is not None and self.units and self._pending:
            path, rooms = self.units.folder / f"{PENDING}.torch", self.rooms[-len(self._pending) :]
            self.units.drop(PENDING)
            write_chunk(path, self._pending)
            place = {"folder": self.name, "chunk": self._chunks}
            self.units.keep_json(PENDING, {**place, "rooms": rooms, "sha256": sha256(path)})
        super().__exit__(kind, *rest)


def _whole(units: Unfinished, unit: str, path: Path, place: Mapping[str, Any] | None = None) -> list[Record]:
    """Return the rooms of a unit, none where it is not there, of another place, or its chunk is damaged."""
    record = units.read_json(unit)
    fits = record and (place or {}).items() <= record.items() and path.is_file() and sha256(path) == record["sha256"]
    return record["rooms"] if fits else []
