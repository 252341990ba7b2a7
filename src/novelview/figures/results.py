"""Finished results, read once: evaluations with their scores and intervals, training curves, and their study."""

import csv
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from novelview.config.schema import SUBSETS, Resolution, Study
from novelview.errors import ConfigError, DataError
from novelview.evaluation.published import PublishedRow, published
from novelview.evaluation.scores import ImageScores, bounds, clusters, draws, read_rows
from novelview.figures.style import BASELINES, label, split_order
from novelview.files import read_json

METRICS = ("psnr", "ssim", "lpips", "sharpness", "flip")
COLUMNS = ("step", "loss", "mse", "psnr", "lr", "grad_norm", "skipped", "seconds")
SEED, RESAMPLES = 0, 1000
Item = TypeVar("Item")
Key = TypeVar("Key")
Place = tuple[str, str]  # set, split
Target = tuple[str, int, int]  # scene, entry, frame


class Score(NamedTuple):
    """A mean with its bootstrap interval; NaN where there is none."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, value: dict[str, Any] | None) -> "Score":
        """Read `{"mean", "low", "high"}`; None, or null inside it, is NaN: the metric was not computed."""
        found = ((value or {}).get(key) for key in cls._fields)
        return cls(*(math.nan if number is None else float(number) for number in found))

    @classmethod
    def over(cls, values: Sequence[float], scenes: Sequence[str], count: int = RESAMPLES, seed: int = SEED) -> "Score":
        """Return the mean of one value an image, with the interval of `count` resamples of the images' scenes.

        NaN where there is no value, or one is None: not all were computed."""
        if not values or None in values:
            return cls.of(None)
        labels = clusters(scenes)
        sums, counts = np.bincount(labels, values), np.bincount(labels)
        drawn = draws(len(counts), count, seed)
        return cls(float(np.mean(values)), *bounds((drawn @ sums) / (drawn @ counts)))

    @property
    def known(self) -> bool:
        """Whether the metric was computed."""
        return not math.isnan(self.mean)


@dataclass(frozen=True)
class Group:
    """Scores of one model or baseline on the `count` images of one split of one set."""

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


class Evaluation:
    """One evaluation folder: weights of `model` (a registry name or a variant) on `dataset`, and of the baselines.

    name: what it is called in figures and on the page, `PT-LVSM, 126 px`; cameras: `given`, or the estimator's name;
    config: the training configuration in the weights' header, empty where there is none; subset, train_scenes: what it
    was trained on, 0 where that is not known; groups: every score in reading order; margins: every paired difference.
    """

    def __init__(self, folder: Path, summary: dict[str, Any]) -> None:
        """Take what `folder`/summary.json says."""
        self.folder, self.summary = folder, summary
        self.model, self.dataset = str(summary["model"]), str(summary["dataset"])
        self.resolution = Resolution.parse(summary["resolution"])
        self.name = f"{label(self.model)}, {self.resolution} px"
        self.cameras = str(summary.get("cameras", {}).get("estimator", "given"))
        self.config: dict[str, Any] = summary.get("weights", {}).get("config", {})
        self.subset = str(self.config.get("subset", "full"))
        self.train_scenes = int(summary.get("train_scenes") or 0)
        self.groups: list[Group] = []
        for row in sorted(summary["groups"], key=lambda row: (set_order(row["set"]), split_order(row["split"]))):
            scores = {metric: Score.of(row.get(metric)) for metric in METRICS}
            self.groups.append(Group(row["model"], row["set"], row["split"], row["count"], scores))
        self.margins = [
            Margin(row["model"], row["baseline"], row["set"], row["split"], Score.of(row["psnr"]))
            for row in summary["paired"]
        ]

    @cached_property
    def rows(self) -> dict[Place, dict[Target, ImageScores]]:
        """The model's own scores image by image; raises DataError when they are missing."""
        own = (row for row in read_rows(self.folder / "rows.csv") if row.model == self.model)
        places = grouped(own, lambda row: (row.set, row.split))
        return {place: {(row.scene, row.entry, row.frame): row for row in rows} for place, rows in places.items()}

    def group(self, set_name: str, split: str, model: str | None = None) -> Group | None:
        """Return the scores on a split of a set, of the model itself or of a baseline; None where there are none."""
        place = (model or self.model, set_name, split)
        return next((group for group in self.groups if (group.model, group.set, group.split) == place), None)

    def scores(self, set_name: str, split: str, model: str | None = None) -> dict[str, Score] | None:
        """Return the scores of `group` alone."""
        group = self.group(set_name, split, model)
        return group.scores if group else None

    def margin(self, set_name: str, split: str) -> Margin | None:
        """Return the model's paired difference against the trivial baseline with the highest mean PSNR there."""
        groups = [group for name in BASELINES if (group := self.group(set_name, split, name))]
        best = max(groups, key=lambda group: group.scores["psnr"].mean).model if groups else None
        place = (self.model, best, set_name, split)
        return next((one for one in self.margins if (one.model, one.baseline, one.set, one.split) == place), None)


class Curve:
    """One training run, named by `.../{model}/{data}/{phase}-x{resolution}/train.csv`; resolution falsy: unknown.

    subset: of the training scenes, from the name of the data, `rooms-little`; steps: number of the last one; columns:
    each name of `COLUMNS` to floats [rows], in step order; `skipped`: updates skipped since the row before."""

    def __init__(self, file: Path) -> None:
        """Read a training log; raises DataError when it is missing, empty, or lacks a column."""
        if not file.is_file():
            raise DataError(f"{file}: no such training log; run the training stage first")
        with open(file, newline="", errors="replace") as stream:
            rows = list(csv.DictReader(stream))
        missing = [name for name in COLUMNS if not rows or name not in rows[0]]
        if missing:
            what = f"has no column '{missing[0]}'" if rows else "has no rows"
            raise DataError(f"{file}: training log {what}; run the training stage again")
        self.columns: dict[str, np.ndarray] = {}
        for name in COLUMNS:
            try:
                self.columns[name] = np.array([float(row[name] or "nan") for row in rows])
                self.steps = int(self.columns["step"][-1])
            except (TypeError, ValueError, OverflowError):
                what = f"column '{name}' holds something other than numbers"
                raise DataError(f"{file}: {what}; run the training again") from None
        self.model, self.data, self.resolution = file.parent.name or file.stem, "", Resolution(0, 0)
        parents, size = file.resolve().parents, re.fullmatch(r"([a-z0-9_]+-)?x([1-9]\d*(x[1-9]\d*)?)", file.parent.name)
        if size and len(parents) > 2:
            self.model, self.data, self.resolution = parents[2].name, parents[1].name, Resolution.parse(size[2])
        subset = re.search(rf"-({'|'.join(SUBSETS)})(?=-|$)", self.data)
        self.subset = subset[1] if subset else "full"


@dataclass(frozen=True)
class Results:
    """All that is drawn of a study, read when first asked for: evaluation folders, training logs, further files.

    figure: what is made of them, named in error lines. Every part raises DataError for a missing or damaged file."""

    folders: Sequence[Path]
    logs: Sequence[Path] = ()
    extras: Sequence[Path] = ()
    study: Study = field(default_factory=Study)
    scale: str = "demo"
    figure: str = "report"

    @cached_property
    def everything(self) -> list[Evaluation]:
        """Evaluations of all subsets on all cameras, in order; estimated ones are other test data, for `posefree`."""
        if not self.folders:
            raise DataError(f"figure {self.figure}: no evaluation folders given; name them as io.inputs=[FOLDER,...]")
        found = [read_evaluation(folder) for folder in self.folders]
        return sorted(found, key=lambda one: (one.dataset, one.model, one.resolution, -SUBSETS.get(one.subset, 1)))

    @cached_property
    def ladder(self) -> list[Evaluation]:
        """Evaluations of all training subsets on the given cameras."""
        if found := [item for item in self.everything if item.cameras == "given"]:
            return found
        raise DataError(f"figure {self.figure}: every evaluation is on estimated cameras; add one on the given ones")

    @cached_property
    def evaluations(self) -> list[Evaluation]:
        """Evaluations on the given cameras; of runs that differ in the training subset alone the largest."""
        return largest(self.ladder)

    def published(self, table: str, model: str | None = None) -> list[PublishedRow]:
        """Return the published rows that belong beside the study; raises ConfigError for an unknown paper."""
        return published(self.study.published, table, model) if self.study.published else []

    @cached_property
    def curves(self) -> list[Curve]:
        """Training curves; of runs that differ in the training subset alone the largest."""
        found = sorted(map(Curve, self.logs), key=lambda curve: -SUBSETS[curve.subset])
        kept = {(curve.model, curve.data.replace(f"-{curve.subset}", ""), curve.resolution): curve for curve in found}
        return list(kept.values())


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Return the items by their keys, both in the order in which they come."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def largest(evaluations: Iterable[Evaluation]) -> list[Evaluation]:
    """Keep the largest of the subsets, which is the last, that a model was trained on at each size and data set."""
    return list({(item.dataset, item.model, item.resolution): item for item in evaluations}.values())


def set_order(name: str) -> tuple[int, str]:
    """Sort key: seen before new, then by name."""
    return {"seen": 0, "new": 1}.get(name, 2), name


def sections(evaluations: Iterable[Evaluation]) -> list[tuple[str, list[str]]]:
    """Return every set with its splits over all evaluations, both in reading order."""
    found = {(group.set, group.split) for evaluation in evaluations for group in evaluation.groups}
    names = sorted({name for name, _ in found}, key=set_order)
    return [(name, sorted((split for place, split in found if place == name), key=split_order)) for name in names]


def finest(evaluations: Iterable[Evaluation]) -> list[Evaluation]:
    """Keep the highest resolution of each model on each data set."""
    best = {(item.dataset, item.model): item for item in sorted(evaluations, key=lambda item: item.resolution)}
    return [best[key] for key in sorted(best)]


def read_evaluation(folder: Path | str) -> Evaluation:
    """Read an evaluation folder; raises DataError when its summary is missing or incomplete."""
    path = Path(folder)
    try:
        return Evaluation(path, read_json(path / "summary.json"))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, ConfigError) as error:
        what = f"no key {error}" if isinstance(error, KeyError) else f"damaged ({error})"
        raise DataError(f"{path / 'summary.json'}: {what}; run the evaluation again") from None
