"""Time boxes: a stage whose time is over saves what it has and ends; the same command again goes on from there."""

import time
from typing import Protocol

INTERRUPTED = 3  # exit status of a stage that saved what it had because of a signal
BOXED = 4  # exit status of a stage that saved what it had because its time was over
ENDINGS = "NOVELVIEW_ENDINGS"  # names a file to which every stage adds a line with its name and exit status


class Limits(Protocol):
    """The keys of `runtime` that end a stage by the clock."""

    max_minutes: float
    stop_at: float


class BoxEnded(Exception):
    """The time of a stage is over and what it made so far is on disk; the message says how much that is."""


class TimeBox:
    """The time of one call of a stage, from the making of this object on.

    minutes: length, 0 for no limit. stop_at: Unix time at which it ends in any case, 0 for none. A call always finishes
    one unit of work (a training step, a room, a chunk, a batch), however short its box: repeated calls come to an end.
    """

    def __init__(self, minutes: float = 0.0, stop_at: float = 0.0) -> None:
        self.ends = [time.monotonic() + 60 * minutes] if minutes else []
        self.stop_at = stop_at
        self.units = 0

    @classmethod
    def of(cls, limits: Limits) -> "TimeBox":
        """Return a box that begins now and ends as `runtime.max_minutes` and `runtime.stop_at` say."""
        return cls(limits.max_minutes, limits.stop_at)

    @property
    def limited(self) -> bool:
        """Whether the time will ever be over."""
        return bool(self.ends or self.stop_at)

    @property
    def over(self) -> bool:
        """Whether the time is over."""
        late = bool(self.stop_at) and time.time() >= self.stop_at
        return late or any(time.monotonic() >= end for end in self.ends)

    def unit(self) -> None:
        """Count a unit of work that this call finished and put on disk; raises BoxEnded when the time is over."""
        self.units += 1
        self.check()

    def check(self) -> None:
        """Raise BoxEnded when the time is over, unless this call has not finished a unit yet."""
        if self.units and self.over:
            raise BoxEnded(f"{self.units} finished in this call")
