"""What four times the training scenes bring: figure `scaling`, table `scaling_table`, and the order of slopes in words.

A slope is fitted to PSNR against the logarithm of the number of training scenes; its interval is a bootstrap over test
scenes in which all subsets meet the same draws. Published slopes stand beside ours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations, groupby

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from novelview.config.schema import Resolution
from novelview.errors import DataError
from novelview.evaluation.published import PublishedRow
from novelview.evaluation.scores import bounds, clusters, draws
from novelview.figures.results import RESAMPLES, SEED, Evaluation, Results, Score, Target, sections
from novelview.figures.style import MUTED, colour, draw_scores, label, legend_below, title_of
from novelview.figures.tables import NONE, Cell, Grid, Row, Table, difference, difference_cell, verdict

FACTOR = 4.0  # slopes are dB per so many times the scenes, as published
SPLIT = "full"
HEADER = ("model", "resolution", "set", "split", "subset", "scenes", "psnr", "low", "high")
HEADER += ("slope", "slope_low", "slope_high")
VERDICTS = {"win": "agrees", "loss": "disagrees", "tie": "undecided"}
HEADS = {"agrees": "Agree", "disagrees": "Disagree", "undecided": "Undecided, the interval holds 0"}
CAVEAT = (
    "Intervals are bootstraps over test scenes that all subsets and systems meet with the same draws; how much another "
    "training seed, other rooms or more training would change a slope is not in them."
)


@dataclass(frozen=True)
class Line:
    """One model at one resolution, judged on one split of one set after training on subsets of growing size.

    scenes: training scenes; scores: mean PSNR [dB] with interval, one a subset; slope: dB per `FACTOR` times the
    scenes by least squares, with the interval of a bootstrap over test scenes; level: the fit at one scene; drawn: the
    slope of every resample, which lines judged on the same `images` met with the same draws.
    """

    model: str
    resolution: Resolution
    set: str
    split: str
    subsets: tuple[str, ...]
    scenes: tuple[int, ...]
    scores: tuple[Score, ...]
    slope: Score
    level: float
    drawn: Float[np.ndarray, " resamples"] = field(repr=False, compare=False)
    images: tuple[Target, ...] = field(repr=False)

    def at(self, scenes: float) -> float:
        """Return the fitted PSNR [dB] at a number of training scenes."""
        return self.level + self.slope.mean * math.log(scenes, FACTOR)


def lines(evaluations: Sequence[Evaluation]) -> list[Line]:
    """Return a line for every model, resolution, set and split that was trained on two subsets or more.

    Raises DataError when there is none, or when the subsets of a line were judged on different images.
    """
    groups: dict[tuple[str, str, Resolution], list[Evaluation]] = {}
    for item in sorted(evaluations, key=lambda item: item.train_scenes):
        if item.train_scenes:
            groups.setdefault((item.dataset, item.model, item.resolution), []).append(item)
    ladders = [groups[key] for key in sorted(groups) if len({item.train_scenes for item in groups[key]}) > 1]
    if not ladders:
        raise DataError(
            "figure scaling: no model was trained on two subsets or more; name them as `subsets` in the study"
        )
    return [
        _line(own, name, split)
        for own in ladders
        for name, splits in sections(own)
        for split in splits
        if all(item.group(name, split) for item in own)
    ]


def _line(own: Sequence[Evaluation], name: str, split: str) -> Line:
    scenes = tuple(item.train_scenes for item in own)
    scores = tuple(group.scores["psnr"] for item in own if (group := item.group(name, split)))
    tables = [{image: row.psnr for image, row in item.rows.get((name, split), {}).items()} for item in own]
    images = tuple(sorted(tables[0]))
    for item, table in zip(own, tables, strict=True):
        if table.keys() != tables[0].keys():
            raise DataError(f"{item.folder}: judged on other images than {own[0].folder}; run the evaluations again")
    values = np.array([[table[image] for image in images] for table in tables])  # subsets x images
    slope, level = fit(scenes, values.mean(axis=1))
    drawn = _resampled(scenes, values, clusters([image[0] for image in images]))
    place = (own[0].model, own[0].resolution, name, split, tuple(item.subset for item in own))
    return Line(*place, scenes, scores, Score(slope, *bounds(drawn)), level, drawn, images)


def fit(scenes: Sequence[int], psnr: Float[np.ndarray, " subsets"]) -> tuple[float, float]:
    """Return slope [dB per `FACTOR` times the scenes] and level [dB at one scene] of the least-squares line."""
    slope, level = np.polyfit(np.log(scenes) / math.log(FACTOR), psnr, 1)
    return float(slope), float(level)


def _resampled(
    scenes: Sequence[int], values: Float[np.ndarray, "subsets images"], labels: Float[np.ndarray, " images"]
) -> Float[np.ndarray, " resamples"]:
    """Return the slope of every resample; all subsets meet the same draws, so what they share cancels out."""
    sums = np.stack([np.bincount(labels, row) for row in values], axis=1)
    counts = np.bincount(labels)
    drawn = draws(len(counts), RESAMPLES, SEED)
    means = (drawn @ sums) / (drawn @ counts)[:, None]
    places = np.log(scenes) / math.log(FACTOR)
    centred = places - places.mean()
    return means @ centred / (centred @ centred)


def main_lines(results: Results) -> list[Line]:
    """Return the lines on the split `full` of every set, or on its first split where that was not evaluated."""
    found = lines(results.ladder)
    splits: dict[str, list[str]] = {}
    for line in found:
        splits.setdefault(line.set, []).append(line.split)
    return [line for line in found if line.split == (SPLIT if SPLIT in splits[line.set] else splits[line.set][0])]


def scaling(results: Results) -> Figure:
    """Draw a row a resolution: PSNR against training scenes for every set, then the slopes, ours and published.

    Raises DataError when no model was trained on two subsets or more.
    """
    found, gains = main_lines(results), results.published("scaling_gain")
    sizes, sets = (list(dict.fromkeys(getattr(line, key) for line in found)) for key in ("resolution", "set"))
    most = max(sum(line.resolution == size for line in found) for size in sizes)
    height = max(3.0, 0.8 + 0.24 * (most + len(gains)))  # inches of a row, in which every slope has a line of its own
    figure, axes = plt.subplots(
        len(sizes),
        len(sets) + 1,
        figsize=(3.3 * len(sets) + 4.2, height * len(sizes) + 0.5),
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
    legend_below(figure, axes[:, 0], 4)  # a system may be in the row of one resolution only
    return figure


def _draw_set(axis: Axes, own: Sequence[Line]) -> None:
    for line in own:
        look = {"fmt": "o", "markersize": 4.5, "elinewidth": 1, "label": label(line.model)}
        draw_scores(axis, zip(line.scenes, line.scores, strict=True), line.model, **look)
        axis.plot(line.scenes, [line.at(scenes) for scenes in line.scenes], color=colour(line.model), label="_fit")
    scenes = sorted({count for line in own for count in line.scenes})
    axis.set_xscale("log")
    axis.set_xticks(scenes, [f"{count:,}" for count in scenes])
    axis.minorticks_off()
    axis.set_xlabel("Training scenes")


def _draw_slopes(axis: Axes, own: Sequence[Line], rows: Sequence[PublishedRow]) -> None:
    """Draw a line of the list a slope: ours with its interval on top, the published ones hollow below."""
    names = [f"{label(line.model)}, {title_of(line.set)}" for line in own]
    for place, line in enumerate(own):
        mean, low, high = line.slope
        spans = [[max(mean - low, 0)], [max(high - mean, 0)]]
        axis.errorbar([mean], [place], xerr=spans, fmt="o", color=colour(line.model), capsize=2)
        axis.annotate(f"{mean:.2f}", (mean, place), (0, 5), textcoords="offset points", fontsize=7)
    for place, row in enumerate(_ranked(rows), start=len(own)):
        gain = row.psnr_gain_per_4x or 0.0
        axis.plot([gain], [place], "D", color=colour(row.model) if row.model else MUTED, markerfacecolor="white")
        axis.annotate(f"{gain:.2f}", (gain, place), (0, 5), textcoords="offset points", fontsize=7)
        names.append(f"{row.method}, published")
    axis.axvline(0, color=MUTED, linewidth=0.7)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.7)
    axis.margins(x=0.15)
    axis.set(xlabel="dB per four times the scenes", title="Slopes")


def _ranked(rows: Sequence[PublishedRow]) -> list[PublishedRow]:
    return sorted(rows, key=lambda row: -(row.psnr_gain_per_4x or 0))


def scaling_table(results: Results) -> Table:
    """Return PSNR by number of training scenes and the slope, a row a model, resolution and set; published below.

    The records are of every split. Raises DataError when no model was trained on two subsets or more.
    """
    found, gains = main_lines(results), results.published("scaling_gain")
    scenes = sorted({count for line in found for count in line.scenes})
    rows = [_our_row(line, scenes) for line in found]
    for one in gains:
        where = f"published: {one.dataset}, {one.resolution} px ({one.grade} source)"
        cells = (*(Cell(NONE) for _ in scenes), Cell(f"{one.psnr_gain_per_4x:+.2f}"))
        rows.append(Row((one.method, where), cells, "published", 1))
    splits = ", ".join(dict.fromkeys(line.split for line in found))
    notes = (
        f"Cells: mean PSNR [dB] on split {splits}; columns: number of training scenes.",
        "Slope: dB per four times the scenes, least squares on the logarithm, with a 95 % bootstrap interval over test "
        "scenes; how much another training seed would change it is not in the interval.",
        "Published slopes are means of the gains from subset to subset, on other data and at other sizes than here.",
        *orderings(found, gains),
    )
    columns = (*(f"{count:,}" for count in scenes), "slope")
    grid = Grid("Scaling", ("Method", "Measured on"), columns, tuple(rows), notes)
    records = [
        [line.model, line.resolution, line.set, line.split, subset, count, *score, *line.slope]
        for line in lines(results.ladder)
        for subset, count, score in zip(line.subsets, line.scenes, line.scores, strict=True)
    ]
    return Table((grid,), HEADER, records)


def _our_row(line: Line, scenes: Sequence[int]) -> Row:
    psnr = dict(zip(line.scenes, line.scores, strict=True))
    cells = [Cell(f"{psnr[count].mean:.2f}") if count in psnr else Cell(NONE) for count in scenes]
    where = f"ours: {title_of(line.set)}, {line.resolution} px"
    return Row((label(line.model), where), (*cells, difference_cell(line.slope, toned=False)))


@dataclass(frozen=True)
class Pair:
    """Two systems of which the published slope of the first is the larger.

    published: by how much [dB per four times the scenes]; ours: our difference with its interval; verdict: agrees where
    the interval lies above 0, disagrees where it lies below, undecided where it holds 0.
    """

    first: str
    second: str
    published: float
    ours: Score
    verdict: str

    @property
    def text(self) -> str:
        """`UP-LVSM over PT-LVSM +0.91 dB [0.50, 1.31], published +0.91`."""
        own = difference(self.ours)
        return f"{label(self.first)} over {label(self.second)} {own}, published {self.published:+.2f}"


def pairs(own: Sequence[Line], rows: Sequence[PublishedRow]) -> list[Pair]:
    """Return every pair of lines with different published slopes, largest published difference first.

    own: lines of one set, split and resolution; only those judged on the same images after the same subsets are paired.
    """
    gains = _gains(rows)
    known = sorted((line for line in own if line.model in gains), key=lambda line: -gains[line.model])
    found = []
    for first, second in combinations(known, 2):
        gain = gains[first.model] - gains[second.model]
        if gain > 0 and (first.images, first.scenes) == (second.images, second.scenes):
            ours = Score(first.slope.mean - second.slope.mean, *bounds(first.drawn - second.drawn))
            found.append(Pair(first.model, second.model, gain, ours, VERDICTS[verdict(ours)]))
    return sorted(found, key=lambda pair: -pair.published)


def _gains(rows: Sequence[PublishedRow]) -> dict[str, float]:
    return {row.model: row.psnr_gain_per_4x for row in rows if row.model and row.psnr_gain_per_4x is not None}


def orderings(found: Sequence[Line], rows: Sequence[PublishedRow]) -> list[str]:
    """Return paragraphs: the published order, then for each set and resolution which pairs agree with it and which not.

    rows: published gains per four times the scenes; without two systems of ours among them there is nothing to say.
    """
    if len({line.model for line in found} & _gains(rows).keys()) < 2:
        return []
    known = dict.fromkeys((line.resolution, line.set, line.split) for line in found)
    places = sorted(known, key=lambda place: place[0])
    groups = [[line for line in found if (line.resolution, line.set, line.split) == place] for place in places]
    return [_published_order(rows, found), *(_our_order(own, pairs(own, rows)) for own in groups), CAVEAT]


def _published_order(rows: Sequence[PublishedRow], found: Sequence[Line]) -> str:
    order = _ranked(rows)
    listed = ", ".join(f"{row.method} {row.psnr_gain_per_4x:+.2f}" for row in order)
    ours = dict.fromkeys(line.model for line in found)
    stand = [f"{label(row.model)} stands for {row.method}" for row in order if row.model in ours and row.note]
    names = {row.model for row in order}
    left = [label(model) for model in ours if model not in names]
    left += [row.method for row in order if row.model not in ours]
    text = f"Published gains from four times the scenes, in dB: {listed}."
    text += f" Here {', '.join(stand)}." if stand else ""
    return text + (f" Not compared, because one of the two slopes is missing: {', '.join(left)}." if left else "")


def _our_order(own: Sequence[Line], found: Sequence[Pair]) -> str:
    head = f"{title_of(own[0].set).capitalize()}, {own[0].resolution} px, split {own[0].split}"
    if not found:
        return f"{head}: no two systems were trained and judged alike, so no order can be compared."
    ranked = sorted(own, key=lambda line: -line.slope.mean)
    order = ", ".join(f"{label(line.model)} {difference(line.slope).partition(' ')[0]}" for line in ranked)
    counts = {name: sum(pair.verdict == name for pair in found) for name in HEADS}
    tally = f"pairs of systems in the published order: {counts['agrees']} of {len(found)}"
    tally += f", in the opposite one: {counts['disagrees']}, undecided: {counts['undecided']}"
    by_verdict = sorted(found, key=lambda pair: list(HEADS).index(pair.verdict))
    groups = groupby(by_verdict, key=lambda pair: pair.verdict)
    listed = [f"{HEADS[name]}: {'; '.join(pair.text for pair in group)}." for name, group in groups]
    return f"{head}: {order}; {tally}. {' '.join(listed)}"
