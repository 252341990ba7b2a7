"""What four times the training scenes bring: PSNR against the number of scenes, a fitted slope, and its interval."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from novelview.config.schema import Resolution
from novelview.errors import DataError
from novelview.evaluation.bootstrap import bounds, clusters, draws
from novelview.evaluation.rows import read_rows
from novelview.figures.results import Evaluation, Score, sections

FACTOR = 4.0  # slopes are dB per so many times the scenes, as published
SEED = 0
RESAMPLES = 1000


@dataclass(frozen=True)
class Line:
    """One model at one resolution, judged on one split of one set after training on subsets of growing size.

    scenes: training scenes; scores: mean PSNR [dB] with interval, one a subset; slope: dB per `FACTOR` times the
    scenes by least squares, with the interval of a bootstrap over test scenes; level: the fit at one scene; drawn: the
    slope of every resample, which lines judged on the same `images` met with the same draws.
    """

    model: str
    resolution: Resolution
    set: str
    split: str
    subsets: tuple[str, ...]
    scenes: tuple[int, ...]
    scores: tuple[Score, ...]
    slope: Score
    level: float
    drawn: Float[np.ndarray, " resamples"] = field(repr=False, compare=False)
    images: tuple[tuple[str, int, int], ...] = field(repr=False)

    def at(self, scenes: float) -> float:
        """Return the fitted PSNR [dB] at a number of training scenes."""
        return self.level + self.slope.mean * math.log(scenes, FACTOR)


def lines(evaluations: Sequence[Evaluation]) -> list[Line]:
    """Return a line for every model, resolution, set and split that was trained on two subsets or more.

    Raises DataError when there is none, or when the subsets of a line were judged on different images.
    """
    groups: dict[tuple[str, str, Resolution], list[Evaluation]] = {}
    for item in evaluations:
        if item.summary.get("train_scenes"):
            groups.setdefault((item.dataset, item.model, item.resolution), []).append(item)
    ladders = [sorted(own, key=_scenes) for own in groups.values() if len({_scenes(item) for item in own}) > 1]
    if not ladders:
        raise DataError(
            "figure scaling: no model was trained on two subsets or more; name them as `subsets` in the study"
        )
    return [
        _line(own, name, split)
        for own in ladders
        for name, splits in sections(own)
        for split in splits
        if all(item.group(item.model, name, split) for item in own)
    ]


def _scenes(evaluation: Evaluation) -> int:
    return int(evaluation.summary["train_scenes"])


def _line(own: Sequence[Evaluation], name: str, split: str) -> Line:
    first = own[0]
    scenes = tuple(_scenes(item) for item in own)
    groups = [item.group(item.model, name, split) for item in own]
    scores = tuple(group.scores["psnr"] for group in groups if group)
    values, images = _images(own, name, split)
    slope, level = fit(scenes, values.mean(axis=1))
    drawn = _resampled(scenes, values, clusters([image[0] for image in images]))
    place = (first.model, first.resolution, name, split)
    subsets = tuple(item.subset for item in own)
    return Line(*place, subsets, scenes, scores, Score(slope, *bounds(drawn)), level, drawn, images)


def _images(
    own: Sequence[Evaluation], name: str, split: str
) -> tuple[Float[np.ndarray, "subsets images"], tuple[tuple[str, int, int], ...]]:
    """Return the PSNR of every image for every subset, and which images these are: scene, entry, frame."""
    tables = []
    for item in own:
        rows = [
            row
            for row in read_rows(item.folder / "rows.csv")
            if (row.model, row.set, row.split) == (item.model, name, split)
        ]
        tables.append({(row.scene, row.entry, row.frame): row.psnr for row in rows})
    images = sorted(tables[0])
    for item, table in zip(own, tables, strict=True):
        if sorted(table) != images:
            raise DataError(f"{item.folder}: judged on other images than {own[0].folder}; run the evaluations again")
    return np.array([[table[image] for image in images] for table in tables]), tuple(images)


def fit(scenes: Sequence[int], psnr: Float[np.ndarray, " subsets"]) -> tuple[float, float]:
    """Return slope [dB per `FACTOR` times the scenes] and level [dB at one scene] of the least-squares line."""
    slope, level = np.polyfit(np.log(scenes) / math.log(FACTOR), psnr, 1)
    return float(slope), float(level)


def _resampled(
    scenes: Sequence[int], values: Float[np.ndarray, "subsets images"], labels: Float[np.ndarray, " images"]
) -> Float[np.ndarray, " resamples"]:
    """Return the slope of every resample; all subsets meet the same draws, so what they share cancels out."""
    sums = np.stack([np.bincount(labels, row) for row in values], axis=1)
    counts = np.bincount(labels)
    drawn = draws(len(counts), RESAMPLES, SEED)
    means = (drawn @ sums) / (drawn @ counts)[:, None]
    places = np.log(scenes) / math.log(FACTOR)
    centred = places - places.mean()
    return means @ centred / (centred @ centred)
