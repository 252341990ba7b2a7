"""Differences of two runs on the same target images and context views, with a bootstrap over scenes."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from novelview.evaluation.scores import bounds, clusters, draws, read_rows
from novelview.figures.results import METRICS, Evaluation, Score
from novelview.files import read_json

Values = dict[tuple[Any, ...], float]  # by scene, entry and, for images, frame


def differences(one: Evaluation, other: Evaluation, group: Mapping[str, Any]) -> dict[str, Score]:
    """Return one minus other for every metric and geometric measure on the set and split of a group.

    Measures without common values are left out; the interval resamples scenes as the evaluation did.
    """
    resampling = one.summary["bootstrap"]
    found = {}
    for name, (ours, theirs) in _pairs(one, other, group["set"], group["split"]).items():
        common = [key for key in ours if key in theirs]
        if common:
            gaps = np.array([ours[key] - theirs[key] for key in common])
            found[name] = _score(gaps, [key[0] for key in common], resampling["resamples"], resampling["seed"])
    return found


def _score(values: np.ndarray, scenes: list[str], resamples: int, seed: int) -> Score:
    labels = clusters(scenes)
    sums, counts = np.bincount(labels, values), np.bincount(labels)
    drawn = draws(len(counts), resamples, seed)
    return Score(float(values.mean()), *bounds((drawn @ sums) / (drawn @ counts)))


def _pairs(one: Evaluation, other: Evaluation, name: str, split: str) -> dict[str, tuple[Values, Values]]:
    ours, theirs = ({**_images(item, name, split), **_geometry(item, name, split)} for item in (one, other))
    return {measure: (ours[measure], theirs[measure]) for measure in ours if measure in theirs}


def _images(item: Evaluation, name: str, split: str) -> dict[str, Values]:
    rows = [row for row in read_rows(item.folder / "rows.csv") if (row.set, row.split) == (name, split)]
    own = [row for row in rows if row.model == item.model]
    return {
        metric: {(row.scene, row.entry, row.frame): value for row in own if (value := getattr(row, metric)) is not None}
        for metric in METRICS
    }


def _geometry(item: Evaluation, name: str, split: str) -> dict[str, Values]:
    path = item.folder / "geometry.json"
    rows = [row for row in read_json(path) if (row["set"], row["split"]) == (name, split)] if path.is_file() else []
    measures = [key for key in (rows[0] if rows else {}) if key not in ("scene", "set", "split", "entry")]
    return {key: {(row["scene"], row["entry"]): row[key] for row in rows} for key in measures}
