"""Time boxes: a stage whose time is over saves what it has and ends; the same command again goes on from there.

What `results/x/evaluation` has finished lies in `results/x/.evaluation.units/` until it is whole: a file a unit, behind
its SHA-256. Units belong to a stamp, a digest of all they depend on; others are removed, damaged ones made again."""

import hashlib
import json
import math
import os
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from novelview.files import holding_lock, write_bytes, write_text

INTERRUPTED = 3  # exit status of a stage that saved what it had because of a signal
BOXED = 4  # exit status of a stage that saved what it had because its time was over
STAMP = "stamp"  # file of the units' stamp
ENDINGS = "NOVELVIEW_ENDINGS"  # names a file to which every stage adds a line with its name and exit status


class BoxEnded(Exception):
    """The time of a stage is over and what it made so far is on disk; the message says how much that is."""


class TimeBox:
    """The time of one call of a stage, from the making of this object on; 0 `minutes` for no limit.

    stop_at: Unix time at which it ends in any case, 0 for none. However short, a call finishes one unit of work (a
    training step, a room, a chunk, a batch): repeated calls come to an end."""

    def __init__(self, minutes: float = 0.0, stop_at: float = 0.0) -> None:
        self.end = time.monotonic() + 60 * minutes if minutes else math.inf
        self.stop_at, self.units = stop_at or math.inf, 0
        self.limited = min(self.end, self.stop_at) < math.inf

    @classmethod
    def of(cls, runtime: Any) -> "TimeBox":
        """Return a box that begins now and ends as `max_minutes` and `stop_at` of a RuntimeConfig say."""
        return cls(runtime.max_minutes, runtime.stop_at)

    @property
    def over(self) -> bool:
        """Whether the time is over."""
        return time.time() >= self.stop_at or time.monotonic() >= self.end

    def unit(self) -> None:
        """Count a unit of work that this call finished and put on disk; raises BoxEnded when the time is over."""
        self.units += 1
        self.check()

    def check(self) -> None:
        """Raise BoxEnded when the time is over, unless this call has not finished a unit yet."""
        if self.units and self.over:
            raise BoxEnded(f"{self.units} finished in this call")


def end_with(parent: int) -> None:
    """End this process, too, when the process that started it is gone, killed ones included."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def stamp_of(*parts: object) -> str:
    """Return a digest of everything that units depend on; parts: what JSON can hold."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


class Unfinished:
    """The finished units of one output; nothing is made on disk before the first is kept."""

    def __init__(self, out: Path | str, stamp: str, own: bool = True) -> None:
        """Open the units of `out`, a file or a folder; own: this process removes those of another stamp."""
        final = Path(out).absolute()
        self.folder, self.stamp = final.with_name(f".{final.name}.units"), stamp
        if own and self.folder.exists() and not self._fits():
            shutil.rmtree(self.folder)

    def _fits(self) -> bool:
        path = self.folder / STAMP
        return path.is_file() and path.read_bytes() == self.stamp.encode()

    def read(self, name: str) -> bytes | None:
        """Return what was kept under `name`; None where nothing was, or it is damaged."""
        with suppress(OSError):
            content = (self.folder / name).read_bytes()
            if self._fits() and content[:32] == hashlib.sha256(content[32:]).digest():
                return content[32:]
        return None

    def keep(self, name: str, content: bytes) -> None:
        """Keep a finished unit."""
        if not self._fits():
            write_text(self.folder / STAMP, self.stamp)
        write_bytes(self.folder / name, hashlib.sha256(content).digest() + content)

    def read_json(self, name: str) -> Any:
        """Return what `keep_json` kept under `name`, else None."""
        content = self.read(name)
        return None if content is None else json.loads(content)

    def keep_json(self, name: str, value: Any) -> None:
        """Keep a unit that JSON can hold."""
        self.keep(name, json.dumps(value).encode())

    def drop(self, name: str) -> None:
        """Remove one unit."""
        (self.folder / name).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove all units: the output is whole."""
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True)
class Share:
    """The part of a process, `rank` of `world` under torchrun, in units that do not depend on each other.

    Nothing is collective after the start, so nothing times out: a scene may take a day longer than the others. The
    processes of one launch know each other by `run`, a word that no earlier launch had, and meet in the units of the
    output, which the first one opens, joins and removes."""

    rank: int = 0
    world: int = 1
    run: str = ""

    @classmethod
    def of(cls, team: Any) -> "Share":
        """Return the share of a process of a `Team`."""
        return cls(team.rank, team.world, team.gather(secrets.token_hex(8))[0])

    def mine(self, number: int) -> bool:
        """Whether this process makes unit `number`."""
        return number % self.world == self.rank

    @contextmanager
    def folder(self, final: Path, stamp: str) -> Iterator[tuple[Path, Unfinished]]:
        """Yield what `resuming_folder` does, which the first process opens and the others wait for."""
        if self.rank == 0:
            with resuming_folder(final, stamp, wait=self.world == 1) as (partial, units):
                if self.world > 1:
                    units.keep_json("run", self.run)
                yield partial, units
            return
        units = Unfinished(final, stamp, own=False)
        while units.read_json("run") != self.run:
            time.sleep(0.2)
        yield final.with_name(f".{final.name}.partial"), units

    def meet(self, units: Unfinished, report: Any) -> list[Any] | None:
        """Return the reports of all processes by rank, once all have come; None to all but the first, which may go."""
        if self.rank:
            units.keep_json(f"rank{self.rank}", [self.run, report])
            return None
        found = {0: report}
        while len(found) < self.world:
            for rank in range(1, self.world):
                run, told = units.read_json(f"rank{rank}") or ("", None)
                found |= {rank: told} if run == self.run else {}
            time.sleep(0.2 if len(found) < self.world else 0)
        return [found[rank] for rank in range(self.world)]


@contextmanager
def resuming_folder(final: Path, stamp: str = "", wait: bool = True) -> Iterator[tuple[Path, Unfinished]]:
    """Yield a sibling of `final` and its units; on success the sibling takes the name and the units go. Where a unit
    was kept, both stay after an error, a kill or BoxEnded for a call with the same stamp; a second call waits,
    or without `wait` raises ConfigError."""
    partial, old = (final.with_name(f".{final.name}.{word}") for word in ("partial", "old"))
    with holding_lock(final, wait):
        units = Unfinished(final, stamp)
        shutil.rmtree(old, ignore_errors=True)
        if not units.folder.exists():
            shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True, exist_ok=True)
        try:
            yield partial, units
            if final.exists():
                final.rename(old)
            partial.rename(final)
        except BaseException:
            if not units.folder.exists():
                shutil.rmtree(partial, ignore_errors=True)
            raise
        shutil.rmtree(old, ignore_errors=True)
        units.clear()
