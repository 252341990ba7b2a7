"""Means and paired differences with 95 % intervals, by a bootstrap that resamples scenes.

Images of one scene resemble each other, so scenes are drawn with replacement, each with all its images (a cluster
bootstrap); the interval runs from the 2.5th to the 97.5th percentile of the resampled means. All models of one set
and split meet the same draws. With a single scene its images are resampled instead, and the row says so.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from novelview.evaluation.baselines import BASELINES
from novelview.evaluation.bootstrap import bounds, clusters, draws
from novelview.evaluation.protocol import SWAPPED
from novelview.evaluation.rows import Row

METRICS = ("psnr", "ssim", "lpips", "sharpness")
Key = tuple[str, str]  # set, split
Image = tuple[str, int, int]  # scene, entry, frame


def groups(rows: Iterable[Row], resamples: int, seed: int) -> list[dict[str, Any]]:
    """Return mean and interval of every metric for each model, set and split.

    Each is {model, set, split, scenes, count, resampled, psnr, ssim, lpips, sharpness}; a metric is {mean, low, high},
    or None where it was not computed; count is the number of images.
    """
    return [
        {
            "model": model,
            "set": name,
            "split": split,
            **_size(own),
            **{metric: _metric(own, metric, resamples, _seed(seed, (name, split))) for metric in METRICS},
        }
        for (name, split), models in _sorted_out(rows).items()
        for model, own in models.items()
    ]


def paired(rows: Iterable[Row], model: str, resamples: int, seed: int) -> list[dict[str, Any]]:
    """Return the difference of `model` and each baseline, image by image, with interval, for each set and split.

    Each is {model, baseline, set, split, scenes, count, resampled, psnr, ssim, lpips, sharpness}. Baselines are the
    trivial ones and `<model>_swapped_pose`.
    """
    return [
        {
            "model": model,
            "baseline": baseline,
            "set": name,
            "split": split,
            **_size(models[model]),
            **{
                metric: _metric(models[model], metric, resamples, _seed(seed, (name, split)), models[baseline])
                for metric in METRICS
            },
        }
        for (name, split), models in _sorted_out(rows).items()
        for baseline in (*BASELINES, model + SWAPPED)
        if baseline in models and model in models and models[baseline].keys() == models[model].keys()
    ]


def means(found: Iterable[Mapping[str, Any]], model: str) -> dict[str, dict[str, dict[str, float]]]:
    """Return {set: {split: {metric: mean}}} of `model` out of the rows that `groups` returns, to four decimals."""
    kept: dict[str, dict[str, dict[str, float]]] = {}
    for row in found:
        if row["model"] == model:
            scores = {name: round(row[name]["mean"], 4) for name in METRICS if row[name]}
            kept.setdefault(row["set"], {})[row["split"]] = scores
    return kept


def _sorted_out(rows: Iterable[Row]) -> dict[Key, dict[str, dict[Image, Row]]]:
    """Return rows by set and split, model, and image, in the order they came."""
    found: dict[Key, dict[str, dict[Image, Row]]] = {}
    for row in rows:
        images = found.setdefault((row.set, row.split), {}).setdefault(row.model, {})
        images[row.scene, row.entry, row.frame] = row
    return found


def _size(images: Mapping[Image, Row]) -> dict[str, Any]:
    scenes = len({scene for scene, _, _ in images})
    return {"scenes": scenes, "count": len(images), "resampled": "scenes" if scenes > 1 else "images"}


def _metric(
    images: Mapping[Image, Row], metric: str, resamples: int, seed: int, against: Mapping[Image, Row] | None = None
) -> dict[str, float] | None:
    values = [getattr(row, metric) for row in images.values()]
    minus = [getattr(against[image], metric) for image in images] if against else [0.0] * len(values)
    if None in values or None in minus:
        return None
    return interval(np.subtract(values, minus), [scene for scene, _, _ in images], resamples, seed)


def interval(values: Float[np.ndarray, " n"], scenes: Sequence[str], resamples: int, seed: int) -> dict[str, float]:
    """Return {mean, low, high}: the mean of `values` and its bootstrap interval; scenes: the scene of every value."""
    labels = clusters(scenes)
    sums, counts = np.bincount(labels, values), np.bincount(labels)
    drawn = draws(len(counts), resamples, seed)
    low, high = bounds((drawn @ sums) / (drawn @ counts))
    return {"mean": _number(np.mean(values)), "low": _number(low), "high": _number(high)}


def _seed(seed: int, key: Key) -> int:
    return int.from_bytes(hashlib.sha256(json.dumps([seed, *key]).encode()).digest()[:8])


def _number(value: Any) -> float:
    """Return a float to six digits: what sums in another order leave in doubt is not written."""
    return round(float(value), 6)
