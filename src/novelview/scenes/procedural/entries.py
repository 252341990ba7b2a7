"""Evaluation entries of the test rooms: context pairs by overlap class, by exact gap, and with targets outside."""

from collections.abc import Callable
from typing import Any

from novelview.config.sources import RoomsSource
from novelview.scenes.procedural.layout import Room
from novelview.scenes.procedural.overlapping import overlaps
from novelview.scenes.procedural.seeds import Draws, room_seed

CLASSES = {"small": (0.05, 0.3), "medium": (0.3, 0.55), "large": (0.55, 0.8)}  # specs/re10k_format.md section 4
LEAST_OVERLAP = 0.05
MOST_FRAMES = 48  # longer clips are searched for pairs on a coarser grid of frames
Pair = tuple[int, int]


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
    rows: dict[str, dict[str, Any] | None] = {}

    def put(name: str, qualifies: Callable[[Pair], bool], targets: Callable[[Pair], list[int]]) -> None:
        chosen = [pair for pair in pairs if qualifies(pair)]
        # Drawn even where there is no choice, so that one index never shifts the draws of the next.
        pick = draws.uniform(0, 1)
        pair = chosen[int(pick * len(chosen))] if chosen else None
        rows[name] = _row(pair, targets(pair), table[pair]) if pair else None

    for name, (low, high) in CLASSES.items():
        put(name, lambda pair, low=low, high=high: low < table[pair] <= high, lambda pair: _inside(draws, source, pair))
    put("extrapolation", lambda pair: _narrow(source, pair, table), lambda pair: _outside(draws, source, pair))
    put("full", lambda pair: _wide(source, pair, table), lambda pair: _inside(draws, source, pair))
    for gap in source.gaps:
        put(f"gap{gap}", lambda pair, gap=gap: pair[1] - pair[0] == gap, lambda pair: _evenly(source, pair))
    return {name: rows[name] for name in split_names(source)}


def _row(pair: Pair, targets: list[int], value: float) -> dict[str, Any]:
    return {"context": list(pair), "target": targets, "overlap": round(value, 6)}


def _pairs(source: RoomsSource, draws: Draws) -> list[Pair]:
    """All pairs with room for the targets inside, on a coarser grid for long clips, and one pair of every gap."""
    step = -(-source.frames // MOST_FRAMES)
    grid = range(0, source.frames, step)
    pairs = {(first, second) for first in grid for second in grid if second - first > source.targets}
    starts = [(draws.integer(0, source.frames - 1 - gap), gap) for gap in source.gaps]
    return sorted(pairs | {(start, start + gap) for start, gap in starts})


def _wide(source: RoomsSource, pair: Pair, table: dict[Pair, float]) -> bool:
    return pair[1] - pair[0] >= source.frames // 2 and table[pair] >= LEAST_OVERLAP


def _narrow(source: RoomsSource, pair: Pair, table: dict[Pair, float]) -> bool:
    third = source.frames // 3 <= pair[1] - pair[0] <= source.frames // 2
    return third and table[pair] >= LEAST_OVERLAP and len(_around(source, pair)) >= source.targets


def _around(source: RoomsSource, pair: Pair) -> list[int]:
    gap = pair[1] - pair[0]
    before, after = range(max(0, pair[0] - gap), pair[0]), range(pair[1] + 1, min(source.frames, pair[1] + gap + 1))
    return [*before, *after]


def _outside(draws: Draws, source: RoomsSource, pair: Pair) -> list[int]:
    around = _around(source, pair)
    return [around[number] for number in draws.sample(source.targets, len(around))]


def _inside(draws: Draws, source: RoomsSource, pair: Pair) -> list[int]:
    return [pair[0] + 1 + number for number in draws.sample(source.targets, pair[1] - pair[0] - 1)]


def _evenly(source: RoomsSource, pair: Pair) -> list[int]:
    gap, parts = pair[1] - pair[0], source.targets + 1
    return [pair[0] + (2 * number * gap + parts) // (2 * parts) for number in range(1, parts)]
