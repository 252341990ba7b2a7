"""Rooms on their way into chunks, with a record of every finished chunk: a stopped call goes on after its last room."""

from pathlib import Path
from typing import Any

from novelview.files import sha256
from novelview.scenes.chunks import ChunkWriter, read_chunk, write_chunk
from novelview.scenes.procedural.making import Entries, MadeRoom
from novelview.timebox import Unfinished

Record = dict[str, Any]  # key, split, entries of a room
PENDING = "pending"  # the rooms of a chunk that is not full yet


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
            _clear(out / folder, len(chunks))
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

    def writer(self, folder: str) -> "RoomWriter":
        """Return the writer of train or test, standing after what is written."""
        return RoomWriter(self, folder)

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
    """A chunk writer that records what it wrote; when its body raises, the rooms of the open chunk are kept as well."""

    def __init__(self, written: WrittenRooms, folder: str) -> None:
        super().__init__(written.out / folder, written.chunk_bytes)
        self.written, self.name, self.units = written, folder, written.units
        self.records: list[Record] = []
        for records in written.chunks[folder]:
            self.index |= dict.fromkeys((record["key"] for record in records), self._name())
            self._chunks += 1
        if written.pending.get("folder") == folder:
            self._take_up(written.pending["rooms"])

    def _take_up(self, records: list[Record]) -> None:
        assert self.units is not None
        for scene, record in zip(read_chunk(self.units.folder / f"{PENDING}.torch"), records, strict=True):
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


def _clear(folder: Path, kept: int) -> None:
    """Remove the chunks after the first `kept`."""
    for stale in [*sorted(folder.glob("*.torch"))[kept:], folder / "index.json"]:
        stale.unlink(missing_ok=True)
