"""Where decoded, resized frames are kept between epochs: in one process, or in memory that loader processes share."""

import mmap
from collections.abc import Sequence
from typing import Protocol

import torch
from jaxtyping import UInt8
from torch import Tensor

Key = tuple[str, int]  # scene and frame


class Kept(Protocol):
    """What the frame cache asks of its memory."""

    def find(self, key: Key, /) -> UInt8[Tensor, "3 h w"] | None: ...

    def keep(self, key: Key, image: UInt8[Tensor, "3 h w"], /) -> None: ...


class OwnFrames:
    """Frames of this process, up to `room` bytes. None is ever evicted.

    Epochs visit every scene once in random order, where replacing the least recently used frame would throw frames out
    just before their next use.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self.frames: dict[Key, Tensor] = {}

    def find(self, key: Key) -> UInt8[Tensor, "3 h w"] | None:
        """Return a kept frame, None where there is none."""
        return self.frames.get(key)

    def keep(self, key: Key, image: UInt8[Tensor, "3 h w"]) -> None:
        """Keep a frame if there is room for it."""
        if self.room >= image.nbytes:
            self.room -= image.nbytes
            self.frames[key] = image


class SharedFrames:
    """Frames of one size in memory that processes forked from this one share: each is decoded once for all of them.

    scenes: (name, number of frames) in the order in which places are given out, up to `room` bytes; frames without a
    place or of another size are not kept. Pages are taken from the system as they are filled. Two processes that decode
    the same frame at once write the same bytes, and a frame is marked as there only after it has been written.
    """

    def __init__(self, scenes: Sequence[tuple[str, int]], height: int, width: int, room: int) -> None:
        self.shape = (3, height, width)
        size = 3 * height * width
        self.first: dict[str, int] = {}
        total = 0
        for name, count in scenes:
            self.first[name] = total
            total += count
        self.places = min(room // size, total)
        # Anonymous and shared; /dev/shm, which containers keep small, is not involved.
        memory, marks = (mmap.mmap(-1, max(count, 1)) for count in (self.places * size, self.places))
        self.pixels = torch.frombuffer(memory, dtype=torch.uint8)[: self.places * size].view(self.places, *self.shape)
        self.there = torch.frombuffer(marks, dtype=torch.uint8)[: self.places]

    def find(self, key: Key) -> UInt8[Tensor, "3 h w"] | None:
        """Return a kept frame, a view of the shared memory, None where it is not there yet."""
        place = self._place(key)
        return self.pixels[place] if place is not None and self.there[place] else None

    def keep(self, key: Key, image: UInt8[Tensor, "3 h w"]) -> None:
        """Keep a frame that has a place."""
        place = self._place(key)
        if place is not None and image.shape == self.shape:
            self.pixels[place] = image
            self.there[place] = 1

    def _place(self, key: Key) -> int | None:
        first = self.first.get(key[0])
        place = self.places if first is None else first + key[1]
        return place if place < self.places else None
