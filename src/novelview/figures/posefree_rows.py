"""Scores on given and on estimated cameras, on the same targets: what the table and the figure `posefree` share."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np

from novelview.config.compose import compose
from novelview.config.plan import weights_of
from novelview.config.schema import Study
from novelview.errors import DataError
from novelview.evaluation.bootstrap import bounds, clusters, draws
from novelview.evaluation.rows import Row, read_rows
from novelview.figures.results import Evaluation, Score, read_evaluations
from novelview.figures.style import split_order

GIVEN = "given"
CLASSES = ("large", "medium", "small")
NAMES = {"given": "given", "colmap": "COLMAP", "vggt": "VGGT"}
SEED, RESAMPLES = 0, 1000
Target = tuple[str, int, int]  # scene, entry, frame


@dataclass(frozen=True)
class Judgement:
    """The scores of one run on one set of cameras: set and split -> target -> row."""

    evaluation: Evaluation
    rows: Mapping[tuple[str, str], Mapping[Target, Row]]

    @property
    def posed(self) -> bool:
        """Whether the model takes poses at all."""
        given = self.evaluation.summary.get("given", {})
        return bool(given.get("context_poses") or given.get("target_poses"))


def judgements(folders: Sequence[Path]) -> list[Judgement]:
    """Read evaluations with their rows; models in name order, given cameras before estimated ones."""
    found = read_evaluations(list(folders), "posefree", estimated=True)
    order = list(NAMES)
    found.sort(
        key=lambda item: (item.model, item.resolution, order.index(item.cameras) if item.cameras in order else 9)
    )
    return [Judgement(item, _by_place(read_rows(item.folder / "rows.csv"), item.model)) for item in found]


def _by_place(rows: Iterable[Row], model: str) -> dict[tuple[str, str], dict[Target, Row]]:
    found: dict[tuple[str, str], dict[Target, Row]] = {}
    for row in rows:
        if row.model == model:
            found.setdefault((row.set, row.split), {})[row.scene, row.entry, row.frame] = row
    return found


def places(found: Sequence[Judgement]) -> list[tuple[str, list[str]]]:
    """Return every set with its overlap classes, or all of its splits where it has no classes."""
    sets: dict[str, dict[str, None]] = {}
    for name, split in (place for one in found for place in one.rows):
        sets.setdefault(name, {})[split] = None
    chosen = {name: [split for split in splits if split in CLASSES] or list(splits) for name, splits in sets.items()}
    return [(name, sorted(splits, key=split_order)) for name, splits in chosen.items()]


def common(found: Sequence[Judgement], place: tuple[str, str]) -> list[Target]:
    """Return the targets of a set and split that every judgement has which has any: those all estimators placed.

    An estimator that placed none of a split has no scores there, and does not take the others' away.
    """
    targets = [set(one.rows[place]) for one in found if one.rows.get(place)]
    return sorted(reduce(set.intersection, targets)) if targets else []


def score(one: Judgement, place: tuple[str, str], targets: Sequence[Target], metric: str = "psnr") -> Score:
    """Return the mean over targets with its interval; NaN where there are none or the metric was not computed."""
    if not one.rows.get(place):
        return Score.of(None)
    return _interval([getattr(one.rows[place][target], metric) for target in targets], targets)


def difference(one: Judgement, other: Judgement, place: tuple[str, str]) -> tuple[Score, list[tuple[Target, float]]]:
    """Return the mean PSNR difference [dB] over the targets both have, its interval, and every target's own."""
    targets = sorted(set(one.rows.get(place, {})) & set(other.rows.get(place, {})))
    values = [one.rows[place][target].psnr - other.rows[place][target].psnr for target in targets]
    return _interval(values, targets), list(zip(targets, values, strict=True))


def _interval(values: Sequence[float | None], targets: Sequence[Target]) -> Score:
    known = [value for value in values if value is not None]
    if not known or len(known) < len(values):
        return Score.of(None)
    labels = clusters([scene for scene, _, _ in targets])
    sums, counts = np.bincount(labels, known), np.bincount(labels)
    drawn = draws(len(counts), RESAMPLES, SEED)
    return Score(float(np.mean(known)), *bounds((drawn @ sums) / (drawn @ counts)))


def absent(found: Sequence[Judgement], study: Study, scale: str) -> dict[str, str]:
    """Return the estimators the study asks for at a scale and has no scores of, with the reason."""
    there = {one.evaluation.cameras for one in found}
    return {name: _reason(name) for name in study.poses.get(scale, []) if name not in there}


def _reason(name: str) -> str:
    weights = weights_of(compose("poses", [f"poses={name}"]))
    if weights is None:
        return "not evaluated; run the study again"
    return f"its weights {weights} were not here; `python -m novelview.stages.fetch {name}` fetches them"


def given_of(found: Sequence[Judgement], one: Judgement) -> Judgement:
    """Return the same weights' judgement on the given cameras; raises DataError where it is missing."""
    same = (one.evaluation.model, one.evaluation.resolution)
    for other in found:
        if (other.evaluation.model, other.evaluation.resolution) == same and other.evaluation.cameras == GIVEN:
            return other
    raise DataError(f"{one.evaluation.folder}: no evaluation of {same[0]} on the given cameras beside it")
