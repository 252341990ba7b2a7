"""Figure `scaling`: PSNR against training scenes on a log axis with fitted slopes, and published slopes beside them."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from novelview.config.schema import Study
from novelview.evaluation.published import PublishedRow, published
from novelview.figures.results import read_evaluations
from novelview.figures.slopes import Line, lines
from novelview.figures.style import MUTED, colour, label, save, title_of, use_style

SPLIT = "full"
STYLES = ("-", (0, (4, 1.5)), (0, (1, 1)))


def scaling(folders: list[Path], stem: Path, study: Study) -> list[Path]:
    """Draw a row a resolution: PSNR against training scenes for every set, then the slopes, ours and published.

    Raises DataError when no model was trained on two subsets or more.
    """
    found = main_split(lines(read_evaluations(folders, "scaling", subsets=True)))
    sizes, sets = (list(dict.fromkeys(getattr(line, key) for line in found)) for key in ("resolution", "set"))
    gains = published(study.published, "scaling_gain") if study.published else []
    use_style()
    figure, axes = plt.subplots(
        len(sizes),
        len(sets) + 1,
        figsize=(3.3 * len(sets) + 4.2, _height(found, gains) * len(sizes) + 0.5),
        squeeze=False,
        layout="constrained",
        width_ratios=[*(3.3 for _ in sets), 3.6],
    )
    for row, size in zip(axes, sizes, strict=True):
        own = [line for line in found if line.resolution == size]
        for axis, name in zip(row, sets, strict=False):
            _draw_set(axis, [line for line in own if line.set == name])
            axis.set_title(f"{title_of(name).capitalize()}, {size} px")
        row[0].set_ylabel("PSNR [dB]")
        _draw_slopes(row[-1], own, gains)
    shown = [pair for axis in axes[:, 0] for pair in zip(*axis.get_legend_handles_labels(), strict=True)]
    named = {name: handle for handle, name in shown}  # a system may be in the row of one resolution only
    figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=4)
    return save(figure, stem)


def _height(found: Sequence[Line], gains: Sequence[PublishedRow]) -> float:
    """Return the inches of a resolution's row, in which every slope has a line of its own."""
    most = max(sum(line.resolution == size for line in found) for size in {line.resolution for line in found})
    return max(3.0, 0.8 + 0.24 * (most + len(gains)))


def main_split(found: Sequence[Line]) -> list[Line]:
    """Keep the split `full` of every set, or its first one where that was not evaluated."""
    splits: dict[str, list[str]] = {}
    for line in found:
        splits.setdefault(line.set, []).append(line.split)
    chosen = {name: SPLIT if SPLIT in own else own[0] for name, own in splits.items()}
    return [line for line in found if line.split == chosen[line.set]]


def _draw_set(axis: Axes, own: Sequence[Line]) -> None:
    for line in own:
        means = [score.mean for score in line.scores]
        spans = [[score.mean - score.low for score in line.scores], [score.high - score.mean for score in line.scores]]
        tint = colour(line.model)
        bars = {"fmt": "o", "markersize": 4.5, "capsize": 2, "elinewidth": 1}
        axis.errorbar(line.scenes, means, spans, color=tint, label=label(line.model), **bars)
        axis.plot(line.scenes, [line.at(scenes) for scenes in line.scenes], color=tint, label="_fit")
    scenes = sorted({count for line in own for count in line.scenes})
    axis.set_xscale("log")
    axis.set_xticks(scenes, [f"{count:,}" for count in scenes])
    axis.minorticks_off()
    axis.set_xlabel("Training scenes")


def _draw_slopes(axis: Axes, own: Sequence[Line], rows: Sequence[PublishedRow]) -> None:
    """Draw a line of the list a slope: ours with its interval on top, the published ones hollow below."""
    names = [f"{label(line.model)}, {title_of(line.set)}" for line in own]
    for place, line in enumerate(own):
        spans = [[max(line.slope.mean - line.slope.low, 0)], [max(line.slope.high - line.slope.mean, 0)]]
        axis.errorbar([line.slope.mean], [place], xerr=spans, fmt="o", color=colour(line.model), capsize=2)
        axis.annotate(
            f"{line.slope.mean:.2f}", (line.slope.mean, place), (0, 5), textcoords="offset points", fontsize=7
        )
    for place, row in enumerate(sorted(rows, key=lambda row: -(row.psnr_gain_per_4x or 0)), start=len(own)):
        gain = row.psnr_gain_per_4x or 0.0
        tint = colour(row.model) if row.model else MUTED
        axis.plot([gain], [place], "D", color=tint, markerfacecolor="white")
        axis.annotate(f"{gain:.2f}", (gain, place), (0, 5), textcoords="offset points", fontsize=7)
        names.append(f"{row.method}, published")
    axis.axvline(0, color=MUTED, linewidth=0.7)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.7)
    axis.margins(x=0.15)
    axis.set(xlabel="dB per four times the scenes", title="Slopes")
