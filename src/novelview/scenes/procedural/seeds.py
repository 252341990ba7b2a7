"""Names and seeds of the rooms: everything about room `number` of a split follows from three values by hashing."""

import hashlib

import torch

SPLITS = ("train", "seen", "new")


def _hash(*parts: object) -> str:
    return hashlib.sha256("\0".join(["novelview rooms", *map(str, parts)]).encode()).hexdigest()


def room_seed(seed: int, split: str, number: int) -> int:
    """Return the 63-bit seed of a room; distinct (seed, split, number) give distinct, unrelated seeds."""
    return int(_hash("seed", seed, split, number)[:16], 16) >> 1


def scene_key(seed: int, split: str, number: int) -> str:
    """Return the scene's key: 16 hex digits as in RealEstate10K (specs/re10k_format.md section 1)."""
    return _hash("key", seed, split, number)[:16]


class Draws:
    """Random choices from one CPU torch generator, so that a room is the same on every device."""

    def __init__(self, seed: int) -> None:
        """Start the stream of `seed` (0 <= seed < 2**63)."""
        self._generator = torch.Generator().manual_seed(seed)

    def uniform(self, low: float, high: float) -> float:
        """Return a float in [low, high)."""
        return low + (high - low) * torch.rand((), generator=self._generator, dtype=torch.float64).item()

    def integer(self, low: int, high: int) -> int:
        """Return an integer in [low, high], both ends included."""
        return int(torch.randint(low, high + 1, (), generator=self._generator).item())

    def sign(self) -> float:
        """Return -1 or 1."""
        return 2.0 * self.integer(0, 1) - 1.0

    def sample(self, count: int, high: int) -> list[int]:
        """Return `count` distinct integers of range(high), ascending."""
        return sorted(torch.randperm(high, generator=self._generator)[:count].tolist())
