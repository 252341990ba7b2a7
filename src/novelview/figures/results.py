"""Finished evaluations read from their folders: scores with intervals, paired differences and what they came from."""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from novelview.config.schema import SUBSETS, Resolution
from novelview.errors import DataError
from novelview.figures.style import BASELINES, split_order
from novelview.files import read_json

METRICS = ("psnr", "ssim", "lpips", "sharpness")


@dataclass(frozen=True)
class Score:
    """A mean with its bootstrap interval; NaN where there is none."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, value: dict[str, Any] | None) -> "Score":
        """Read `{"mean", "low", "high"}`; None, or null inside it, is NaN: the metric was not computed."""
        found = value or {}
        return cls(*(math.nan if found.get(key) is None else float(found[key]) for key in ("mean", "low", "high")))

    @property
    def known(self) -> bool:
        """Whether the metric was computed."""
        return not math.isnan(self.mean)


@dataclass(frozen=True)
class Group:
    """Scores of one model or baseline on one split of one set; `count` images over `scenes` scenes."""

    model: str
    set: str
    split: str
    count: int
    scores: dict[str, Score]


@dataclass(frozen=True)
class Margin:
    """Paired PSNR difference of a model and a baseline [dB] on one split of one set, with its interval."""

    model: str
    baseline: str
    set: str
    split: str
    score: Score


@dataclass(frozen=True)
class Evaluation:
    """One evaluation folder: weights of `model` at `resolution` pixels on `dataset`, and the baselines beside it."""

    folder: Path
    summary: dict[str, Any]

    @property
    def model(self) -> str:
        """Registry name of the model."""
        return str(self.summary["model"])

    @property
    def resolution(self) -> Resolution:
        """Size of the evaluated images in pixels."""
        return Resolution.parse(self.summary["resolution"])

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return str(self.summary["dataset"])

    @property
    def cameras(self) -> str:
        """Whose cameras the data set had: `given`, or an estimator's name."""
        return str(self.summary.get("cameras", {}).get("estimator", "given"))

    @property
    def subset(self) -> str:
        """Name of the training subset."""
        return str(self.summary.get("weights", {}).get("config", {}).get("subset", "full"))

    @cached_property
    def groups(self) -> list[Group]:
        """Every score, sets and splits in reading order."""
        found = [
            Group(
                row["model"], row["set"], row["split"], row["count"], {key: Score.of(row.get(key)) for key in METRICS}
            )
            for row in self.summary["groups"]
        ]
        return sorted(found, key=lambda group: (set_order(group.set), split_order(group.split)))

    @cached_property
    def margins(self) -> list[Margin]:
        """Every paired difference."""
        return [
            Margin(row["model"], row["baseline"], row["set"], row["split"], Score.of(row["psnr"]))
            for row in self.summary["paired"]
        ]

    def group(self, model: str, set_name: str, split: str) -> Group | None:
        """Return the scores of `model` on a split of a set, or None when it was not evaluated there."""
        found = (group for group in self.groups if (group.model, group.set, group.split) == (model, set_name, split))
        return next(found, None)

    def best_baseline(self, set_name: str, split: str) -> str | None:
        """Return the trivial baseline with the highest mean PSNR on a split of a set."""
        groups = [group for name in BASELINES if (group := self.group(name, set_name, split))]
        return max(groups, key=lambda group: group.scores["psnr"].mean).model if groups else None

    def margin(self, set_name: str, split: str, baseline: str | None = None) -> Margin | None:
        """Return the model's paired difference against `baseline` (None: the best trivial one)."""
        against = baseline or self.best_baseline(set_name, split)
        found = (
            item
            for item in self.margins
            if (item.model, item.baseline, item.set, item.split) == (self.model, against, set_name, split)
        )
        return next(found, None)


def set_order(name: str) -> tuple[int, str]:
    """Sort key: seen before new, then by name."""
    return {"seen": 0, "new": 1}.get(name, 2), name


def read_evaluation(folder: Path | str) -> Evaluation:
    """Read an evaluation folder; raises DataError when its summary is missing or incomplete."""
    path = Path(folder)
    summary = read_json(path / "summary.json")
    missing = [key for key in ("model", "resolution", "dataset", "groups", "paired") if key not in summary]
    if missing:
        raise DataError(f"{path / 'summary.json'}: no key '{missing[0]}'; run the evaluation again")
    return Evaluation(path, summary)


def read_evaluations(
    folders: list[Path], figure: str, subsets: bool = False, estimated: bool = False
) -> list[Evaluation]:
    """Read the evaluation folders of a figure, models in name order, resolutions ascending; DataError when none.

    Of runs that differ in the training subset alone the largest is kept; subsets: all of them, small ones first.
    estimated: also those on estimated cameras, which are other test data and stand beside others nowhere else.
    """
    if not folders:
        raise DataError(f"figure {figure}: no evaluation folders given; name them as io.inputs=[FOLDER,...]")
    found = [read_evaluation(folder) for folder in folders]
    found = [item for item in found if estimated or item.cameras == "given"]
    if not found:
        raise DataError(f"figure {figure}: every evaluation is on estimated cameras; add one on the given ones")
    found.sort(key=lambda item: (item.dataset, item.model, item.resolution, -SUBSETS.get(item.subset, 1)))
    if subsets:
        return found
    return list({(item.dataset, item.model, item.resolution): item for item in found}.values())


def sections(evaluations: list[Evaluation]) -> list[tuple[str, list[str]]]:
    """Return every set with its splits over all evaluations, both in reading order."""
    splits: dict[str, set[str]] = {}
    for evaluation in evaluations:
        for group in evaluation.groups:
            splits.setdefault(group.set, set()).add(group.split)
    return [(name, sorted(splits[name], key=split_order)) for name in sorted(splits, key=set_order)]
