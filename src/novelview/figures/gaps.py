"""Figure `gaps`: PSNR against context gap and overlap class, a row a set and resolution, with bootstrap intervals."""

import re
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from novelview.errors import DataError
from novelview.figures.results import Evaluation, Score, read_evaluations, sections
from novelview.figures.style import BASELINES, colour, label, save, title_of, use_style

MARKERS = {"nearest_context": "s", "mean_context": "D", "mean_colour": "v"}
Tick = Callable[[str], str]
Panel = tuple[str, list[str], Tick]  # title, splits, what to write under a split's point


def gaps(folders: list[Path], stem: Path) -> list[Path]:
    """Draw PSNR by context gap and by overlap class for every model and baseline, a row a set and resolution.

    Raises DataError when nothing was evaluated.
    """
    evaluations = read_evaluations(folders, "gaps")
    rows = _rows(evaluations)
    if not rows:
        raise DataError(f"{folders[0]}: no split was evaluated; run the evaluation again")
    use_style()
    columns = max(len(panels) for _, _, panels in rows)
    size = (4.8 * columns, 2.7 * len(rows) + 0.6)
    figure, axes = plt.subplots(len(rows), columns, figsize=size, sharey="row", squeeze=False, layout="constrained")
    for line, (title, own, panels) in zip(axes, rows, strict=True):
        for axis in line[len(panels) :]:
            axis.remove()
        for axis, panel in zip(line, panels, strict=False):
            _draw(axis, own, title[0], panel)
        line[0].set_title(f"{title_of(title[0]).capitalize()}, {title[1]} px")
        line[0].set_ylabel("PSNR [dB]")
    handles, names = _legend(axes)
    figure.legend(handles, names, loc="outside lower center", ncols=3)
    return save(figure, stem)


def _rows(evaluations: list[Evaluation]) -> list[tuple[tuple[str, int], list[Evaluation], list[Panel]]]:
    """Return ((set, resolution), the evaluations at it, its panels) for every row of the figure."""
    sizes = sorted({evaluation.resolution for evaluation in evaluations})
    found = []
    for name, splits in sections(evaluations):
        for size in sizes:
            own = [item for item in evaluations if item.resolution == size]
            panels = _panels([split for split in splits if any(item.group(item.model, name, split) for item in own)])
            found += [((name, size), own, panels)] if panels else []
    return found


def _panels(splits: list[str]) -> list[Panel]:
    """Sort splits into panels: context gaps, and everything else."""
    numbered = [split for split in splits if re.fullmatch(r"gap\d+", split)]
    named = [split for split in splits if split not in numbered]
    panels: list[Panel] = [
        ("Gap between the context views [frames]", numbered, lambda split: split.removeprefix("gap")),
        ("Split", named, lambda split: split.replace("_", " ").replace("extrapolation", "extrap.")),
    ]
    return [panel for panel in panels if panel[1]]


def _draw(axis: Axes, evaluations: list[Evaluation], set_name: str, panel: Panel) -> None:
    title, splits, tick = panel
    series = [(item, item.model) for item in evaluations] + [(evaluations[0], name) for name in BASELINES]
    offsets = np.linspace(-0.2, 0.2, len(series))
    for offset, (evaluation, model) in zip(offsets, series, strict=True):
        groups = [evaluation.group(model, set_name, split) for split in splits]
        points = [(place + offset, group.scores["psnr"]) for place, group in enumerate(groups) if group]
        _draw_points(axis, model, points, joined=splits[0].startswith("gap"))
    axis.set_xticks(range(len(splits)), [tick(split) for split in splits])
    axis.set(xlabel=title, xlim=(-0.5, len(splits) - 0.5))


def _draw_points(axis: Axes, model: str, points: list[tuple[float, Score]], joined: bool) -> None:
    if not points:
        return
    means = np.array([score.mean for _, score in points])
    spans = np.array([[score.mean - score.low, score.high - score.mean] for _, score in points]).T
    axis.errorbar(
        [place for place, _ in points],
        means,
        np.nan_to_num(spans).clip(0),
        color=colour(model),
        linestyle=("--" if model in BASELINES else "-") if joined else "none",
        label=label(model),
        marker=MARKERS.get(model, "o"),
        markersize=4.5,
        capsize=2,
        elinewidth=1,
    )


def _legend(axes: np.ndarray) -> tuple[list, list[str]]:
    entries: dict[str, object] = {}
    for axis in axes.flat:
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(name, handle)
    return list(entries.values()), list(entries)
