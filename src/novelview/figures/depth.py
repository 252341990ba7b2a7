"""Figure `depth`: PSNR against the number of transformer layers, ours and as published."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from novelview.config.schema import Study
from novelview.errors import DataError
from novelview.evaluation.published import PublishedRow, published
from novelview.figures.results import Evaluation, Score, read_evaluations, sections
from novelview.figures.style import BASELINES, colour, label, save, title_of, use_style

SPLIT = "full"
STACKS = ("n_layer", "encoder_n_layer", "decoder_n_layer")
MARKERS = {"lvsm_decoder_only": "o", "lvsm_encoder_decoder": "^"}


@dataclass(frozen=True)
class Point:
    """One run: its architecture (registry name), layers over all stacks, updates it was trained for."""

    evaluation: Evaluation
    architecture: str
    layers: int
    steps: int

    @property
    def recipe(self) -> tuple[str, int]:
        """What must be the same for points to be joined."""
        return self.architecture, self.steps


def points(evaluations: Sequence[Evaluation]) -> list[Point]:
    """Return the runs with known depth, shallow ones first; raises DataError when there are none."""
    found = []
    for item in evaluations:
        config: dict[str, Any] = item.summary.get("weights", {}).get("config", {})
        model = config.get("model", {})
        layers = sum(int(model.get(key, 0)) for key in STACKS)
        if layers:
            found.append(Point(item, str(model["name"]), layers, int(config["train"]["steps"])))
    if not found:
        raise DataError(f"figure depth: no evaluation in {evaluations[0].folder.parent} says how deep its model is")
    return sorted(found, key=lambda point: (point.architecture, -point.steps, point.layers))


def depth(folders: list[Path], stem: Path, study: Study) -> list[Path]:
    """Draw PSNR on the split `full` against depth, a panel a set, and the published rows in one more panel."""
    found = points(read_evaluations(folders, "depth"))
    sets = [name for name, splits in sections([point.evaluation for point in found]) if SPLIT in splits]
    rows = published(study.published, "depth") if study.published else []
    if not sets:
        raise DataError(f"figure depth: split '{SPLIT}' was not evaluated; add it to eval.splits")
    use_style()
    count = len(sets) + bool(rows)
    figure, axes = plt.subplots(1, count, figsize=(3.6 * count, 3.2), squeeze=False, layout="constrained")
    for axis, name in zip(axes[0], sets, strict=False):
        _draw_set(axis, found, name)
    if rows:
        _draw_published(axes[0, -1], rows)
    for axis in axes[0]:
        axis.set_xlabel("Transformer layers")
    axes[0, 0].set_ylabel("PSNR [dB]")
    entries = {name: handle for axis in axes[0] for handle, name in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=2)
    return save(figure, stem)


def _draw_set(axis: Axes, found: Sequence[Point], name: str) -> None:
    for recipe in dict.fromkeys(point.recipe for point in found):
        own = [(point, _score(point, name)) for point in found if point.recipe == recipe]
        own = [(point, score) for point, score in own if score is not None]
        longest = max(point.steps for point in found if point.architecture == recipe[0])
        _draw_line(axis, recipe, [point.layers for point, _ in own], [score for _, score in own], recipe[1] == longest)
    best = [found[0].evaluation.group(baseline, name, SPLIT) for baseline in BASELINES]
    best = max((group.scores["psnr"].mean for group in best if group), default=None)
    if best is not None:
        axis.axhline(best, color=colour("mean_context"), linestyle="--", label="Best trivial baseline")
    axis.set_xticks(sorted({point.layers for point in found}))
    axis.set_title(f"{title_of(name).capitalize()}, {', '.join(dict.fromkeys(size_of(point) for point in found))}")


def _draw_line(
    axis: Axes, recipe: tuple[str, int], layers: Sequence[int], scores: Sequence[Score], filled: bool
) -> None:
    means = [score.mean for score in scores]
    spans = [[score.mean - score.low for score in scores], [score.high - score.mean for score in scores]]
    own = colour(recipe[0])
    axis.errorbar(
        layers,
        means,
        spans,
        color=own,
        marker=MARKERS.get(recipe[0], "o"),
        markerfacecolor=own if filled else "white",
        markersize=4.5,
        capsize=2,
        elinewidth=1,
        label=f"{label(recipe[0])}, {recipe[1]} updates",
    )


def _draw_published(axis: Axes, rows: Sequence[PublishedRow]) -> None:
    for architecture in MARKERS:
        kind = "encoder" if "encoder" in architecture else "decoder-only"
        own = sorted((row.layers or 0, row.psnr or 0.0) for row in rows if kind in row.method)
        (line,) = axis.plot([layers for layers, _ in own], [psnr for _, psnr in own], marker=MARKERS[architecture])
        line.set(color=colour(architecture), markersize=4.5, linestyle="-" if kind == "decoder-only" else "none")
    axis.set_xticks(sorted({row.layers for row in rows if row.layers}))
    axis.set_title(f"Published: {rows[0].dataset}, {rows[0].resolution} px")


def size_of(point: Point) -> str:
    """Return the size of the images a run was judged on, in words."""
    return f"{point.evaluation.resolution} px"


def _score(point: Point, name: str) -> Score | None:
    group = point.evaluation.group(point.evaluation.model, name, SPLIT)
    return group.scores["psnr"] if group else None
