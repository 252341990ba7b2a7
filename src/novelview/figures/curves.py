"""Training logs read from `train.csv`: one curve a training run."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from novelview.config.schema import SUBSETS, Resolution
from novelview.errors import DataError

UNKNOWN = Resolution(0, 0)
COLUMNS = ("step", "loss", "mse", "psnr", "lr", "grad_norm", "skipped", "seconds")


@dataclass(frozen=True)
class Curve:
    """One training run.

    model, data and resolution (pixels) come from the path `.../{model}/{data}/{phase}-x{resolution}/train.csv`;
    columns maps each name of `COLUMNS` to floats [rows], in step order; `skipped` is the number of updates
    skipped since the row before.
    """

    model: str
    data: str
    resolution: Resolution
    columns: dict[str, np.ndarray]

    @property
    def subset(self) -> str:
        """Name of the training subset, from the name of the data: `rooms-little`."""
        found = re.search(rf"-({'|'.join(SUBSETS)})(?=-|$)", self.data)
        return found[1] if found else "full"

    @property
    def steps(self) -> int:
        """Number of the last step logged."""
        return int(self.columns["step"][-1])


def read_curves(paths: Sequence[Path]) -> list[Curve]:
    """Read training logs; of runs that differ in the training subset alone the largest is kept."""
    found = sorted((read_curve(path) for path in paths), key=lambda curve: -SUBSETS[curve.subset])
    kept = {(curve.model, curve.data.replace(f"-{curve.subset}", ""), curve.resolution): curve for curve in found}
    return list(kept.values())


def read_curve(path: Path | str) -> Curve:
    """Read a training log; raises DataError when it is missing, empty, or lacks a column."""
    file = Path(path)
    if not file.is_file():
        raise DataError(f"{file}: no such training log; run the training stage first")
    with open(file, newline="") as stream:
        rows = list(csv.DictReader(stream))
    missing = [name for name in COLUMNS if not rows or name not in rows[0]]
    if missing:
        what = f"has no column '{missing[0]}'" if rows else "has no rows"
        raise DataError(f"{file}: training log {what}; run the training stage again")
    return Curve(*_origin(file), columns={name: _numbers(file, rows, name) for name in COLUMNS})


def _numbers(file: Path, rows: list[dict[str, str]], name: str) -> np.ndarray:
    try:
        return np.array([float(row[name] or "nan") for row in rows])
    except (TypeError, ValueError):
        raise DataError(f"{file}: column '{name}' holds something other than numbers; run the training again") from None


def _origin(file: Path) -> tuple[str, str, Resolution]:
    resolution = re.fullmatch(r"(?:[a-z0-9_]+-)?x([1-9]\d*(x[1-9]\d*)?)", file.parent.name)
    parents = file.resolve().parents
    if resolution and len(parents) > 2:
        return parents[2].name, parents[1].name, Resolution.parse(resolution.group(1))
    return file.parent.name or file.stem, "", UNKNOWN


def group_phases(curves: list[Curve]) -> list[list[Curve]]:
    """Group the curves of one model on one data set, resolutions ascending: pretraining, then finetuning."""
    groups: dict[tuple[str, str], list[Curve]] = {}
    for curve in sorted(curves, key=lambda item: (item.model, item.data, item.resolution)):
        groups.setdefault((curve.model, curve.data), []).append(curve)
    return list(groups.values())
