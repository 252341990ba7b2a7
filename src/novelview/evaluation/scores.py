"""The scores of every image and their CSV file; means and paired differences with 95 % intervals by a bootstrap.

Images of one scene resemble each other, so scenes are drawn, each with all its images (a cluster bootstrap), the same
ones for all models of one set and split. With a single scene its images are resampled instead; the group says so."""

import csv
import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from novelview.errors import DataError
from novelview.files import write_text

LEVEL = 95.0
METRICS = ("psnr", "ssim", "lpips", "sharpness", "flip")
OPTIONAL = ("lpips", "flip")  # may be absent
Image = tuple[str, int, int]  # scene, entry, frame


@dataclass(frozen=True, slots=True)
class ImageScores:
    """Scores of one image; lpips and flip are None where they were not computed."""

    model: str  # a model's name, a baseline's, or `<model>_swapped_pose`
    scene: str
    set: str
    split: str
    entry: int  # in the split's index, nulls not counted
    frame: int  # of the target in its scene
    psnr: float
    ssim: float
    lpips: float | None
    sharpness: float
    flip: float | None = None


COLUMNS = tuple(field.name for field in fields(ImageScores))


def in_order(rows: Iterable[ImageScores], splits: Sequence[str]) -> list[ImageScores]:
    """Sort rows by split (in the order of `splits`), entry, place of the target in it, and model."""
    rank = {split: place for place, split in enumerate(splits)}
    return sorted(rows, key=lambda row: (rank[row.split], row.entry, row.frame, row.model))


def write_rows(path: Path | str, rows: Iterable[ImageScores]) -> None:
    """Write rows as CSV, atomically; what is absent is an empty cell."""
    write_table(path, COLUMNS, map(astuple, rows))


def write_table(path: Path | str, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a table as CSV, atomically, floats to six decimals."""
    cells = ([f"{value:.6f}" if isinstance(value, float) else value for value in row] for row in rows)
    csv.writer(text := io.StringIO(), lineterminator="\n").writerows([header, *cells])
    write_text(path, text.getvalue())


def read_rows(path: Path | str) -> list[ImageScores]:
    """Read a file made by `write_rows`; raises DataError when it is missing or not such a file."""
    try:
        with open(path, newline="") as stream:
            records = list(csv.DictReader(stream))
        return [ImageScores(**{column: _value(column, record[column]) for column in COLUMNS}) for record in records]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; run the evaluate stage first") from None
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path}: not a table of scores ({error}); run the evaluate stage again") from None


def _value(column: str, cell: str) -> Any:
    if column in METRICS:
        return None if column in OPTIONAL and not cell else float(cell)
    return int(cell) if column in ("entry", "frame") else cell


def clusters(scenes: Sequence[str]) -> Int[np.ndarray, " n"]:
    """Return a number for each image that those drawn together share: its scene, or itself where all are of one."""
    labels = np.unique(scenes, return_inverse=True)[1]
    return labels if labels.max() else np.arange(len(scenes))


def draws(clusters: int, resamples: int, seed: int) -> Int[np.ndarray, "resamples clusters"]:
    """Return how often each of `clusters` scenes is drawn in each resample; `clusters` draws with replacement."""
    return np.random.default_rng(seed).multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples)


def bounds(values: Float[np.ndarray, " resamples"]) -> tuple[float, float]:
    """Return the percentiles between which `LEVEL` per cent of the resampled values lie."""
    low, high = np.percentile(values, [(100 - LEVEL) / 2, 100 - (100 - LEVEL) / 2])
    return float(low), float(high)


def interval(values: Float[np.ndarray, " n"], scenes: Sequence[str], resamples: int, seed: int) -> dict[str, float]:
    """Return {mean, low, high} of `values` and their scenes, to six digits: others hang on the order of sums."""
    labels = clusters(scenes)
    sums, counts = np.bincount(labels, values), np.bincount(labels)
    drawn = draws(len(counts), resamples, seed)
    low, high = bounds((drawn @ sums) / (drawn @ counts))
    return {"mean": round(float(np.mean(values)), 6), "low": round(low, 6), "high": round(high, 6)}


def groups(rows: Iterable[ImageScores], resamples: int, seed: int) -> list[dict[str, Any]]:
    """Return {model, set, split, scenes, count (of images), resampled, and intervals or None} of every model."""
    every = ((key, model, own) for key, models in _by_model(rows).items() for model, own in models.items())
    return [{"model": model, **_group(key, own, {}, resamples, seed)} for key, model, own in every]


def paired(
    rows: Iterable[ImageScores], model: str, baselines: Sequence[str], resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Return the same for the difference of `model` and each baseline, image by image, with `baseline` in the rows."""
    return [
        {"model": model, "baseline": baseline, **_group(key, models[model], models[baseline], resamples, seed)}
        for key, models in _by_model(rows).items()
        for baseline in baselines
        if baseline in models and model in models and models[baseline].keys() == models[model].keys()
    ]


def means(found: Iterable[Mapping[str, Any]], model: str) -> dict[str, dict[str, dict[str, float]]]:
    """Return {set: {split: {metric: mean}}} of `model` out of what `groups` returns, to four decimals."""
    kept: dict[str, dict[str, dict[str, float]]] = {}
    for row in found:
        if row["model"] == model:
            scores = {name: round(row[name]["mean"], 4) for name in METRICS if row[name]}
            kept.setdefault(row["set"], {})[row["split"]] = scores
    return kept


def _by_model(rows: Iterable[ImageScores]) -> dict[tuple[str, str], dict[str, dict[Image, ImageScores]]]:
    found: dict[tuple[str, str], dict[str, dict[Image, ImageScores]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        found[row.set, row.split][row.model][row.scene, row.entry, row.frame] = row
    return found


def _group(
    key: tuple[str, str],
    images: Mapping[Image, ImageScores],
    against: Mapping[Image, ImageScores],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    scenes = [scene for scene, _, _ in images]
    found = {"set": key[0], "split": key[1], "scenes": len(set(scenes)), "count": len(images)}
    found["resampled"] = "scenes" if found["scenes"] > 1 else "images"
    own_seed = int.from_bytes(hashlib.sha256(json.dumps([seed, *key]).encode()).digest()[:8])
    for metric in METRICS:
        values = [getattr(row, metric) for row in images.values()]
        minus = [getattr(against[image], metric) for image in images] if against else [0.0] * len(values)
        known = None not in values and None not in minus
        found[metric] = interval(np.subtract(values, minus), scenes, resamples, own_seed) if known else None
    return found
