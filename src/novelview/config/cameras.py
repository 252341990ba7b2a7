"""On which cameras a study's runs are judged: those the data came with, and those an estimator finds in the pictures.

Scores of a run on estimated cameras lie beside those on the given ones: `evaluation-colmap/` beside `evaluation/`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from novelview.config.compose import ESTIMATORS
from novelview.config.runs import Run
from novelview.config.schema import Study


@dataclass(frozen=True)
class Judged:
    """One run on one data set: the study's own, or (estimator not empty) the same under estimated cameras."""

    run: Run
    estimator: str = ""

    @property
    def folder(self) -> str:
        """The evaluation's folder."""
        return f"{self.run.folder}/evaluation{suffix(self.estimator)}"

    @property
    def metrics(self) -> str:
        """The means alone, which git keeps."""
        return f"{self.run.folder}/metrics{suffix(self.estimator)}.json"


def suffix(estimator: str) -> str:
    """Return what an estimator adds to the names of a data set and of an evaluation."""
    return f"-{estimator}" if estimator else ""


def judged(study: Study, runs: Sequence[Run], estimators: Sequence[str]) -> list[Judged]:
    """Return every evaluation: all runs on the given cameras, then those that take poses on every estimator's."""
    posed = [run for run in runs if run.name not in study.pose_free]
    return [Judged(run) for run in runs] + [Judged(run, name) for name in estimators for run in posed]


def weights_of(config: Any) -> str | None:
    """Return the weights file a stage `poses` needs, None where it needs none."""
    return getattr(config.poses, "weights", None)


def taken(settings: Sequence[str], name: str, names: Sequence[str]) -> list[str]:
    """Return the settings meant for estimator `name` of a study's `names`: all but the keys only another one has."""
    own, any_of_them = _keys(name), set().union(*map(_keys, names))
    keys = [word.lstrip("+~").partition("=")[0].split(".") for word in settings]
    foreign = [key[0] == "poses" and len(key) > 1 and key[1] in any_of_them - own for key in keys]
    return [word for word, other in zip(settings, foreign, strict=True) if not other]


def _keys(name: str) -> set[str]:
    return {field.name for field in fields(ESTIMATORS[name])}


def ready(names: Sequence[str], configs: Callable[[str], Any], fetched: bool) -> list[str]:
    """Return the estimators that can run: those whose weights are here, all where missing ones are fetched.

    configs: estimator -> its stage's configuration.
    """
    found = {name: weights_of(configs(name)) for name in names}
    return [name for name, path in found.items() if path is None or fetched or Path(path).is_file()]
