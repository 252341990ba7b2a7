"""Published numbers to print beside ours: `published.yaml`, with the source of every row and how good it is."""

import functools
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import yaml

from novelview.errors import ConfigError


@dataclass(frozen=True)
class PublishedRow:
    """One published result; what a source does not state is None. Names of models and splits are ours."""

    paper: str
    table: str  # main, ablation, depth, low_resource, objects, scaling, scaling_gain or transfer
    method: str
    source: str
    grade: str  # primary (the authors' own page or repository) or secondary (a summary of it)
    model: str | None = None  # None for methods we do not have
    dataset: str | None = None
    split: str | None = None
    resolution: int | None = None
    layers: int | None = None
    train_scenes: int | None = None
    psnr: float | None = None
    ssim: float | None = None
    lpips: float | None = None
    psnr_gain_per_4x: float | None = None
    note: str | None = None


@functools.cache
def papers() -> dict[str, Any]:
    """Return what each paper published, by the name that a study gives as `published`."""
    text = files("novelview.evaluation").joinpath("published.yaml").read_text()
    return {str(paper): entry for paper, entry in yaml.safe_load(text).items()}


def protocol(paper: str) -> str:
    """Return how the numbers of `paper` were measured, in one paragraph; raises ConfigError for an unknown paper."""
    return _paper(paper)["protocol"]


def published(
    paper: str, table: str | None = None, model: str | None = None, split: str | None = None
) -> list[PublishedRow]:
    """Return the rows of `paper` that match what is given; raises ConfigError for an unknown paper."""
    content = _paper(paper)
    sources = {name: {"source": one["text"], "grade": one["grade"]} for name, one in content["sources"].items()}
    rows = [PublishedRow(**{**row, "paper": paper, **sources[row["source"]]}) for row in content["rows"]]
    wanted = {"table": table, "model": model, "split": split}
    return [row for row in rows if all(value in (None, getattr(row, key)) for key, value in wanted.items())]


def _paper(name: str) -> dict[str, Any]:
    if name not in papers():
        raise ConfigError(f"published={name}: no numbers of this paper; choose one of {', '.join(papers())}")
    return papers()[name]
