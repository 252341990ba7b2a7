"""What more training scenes and more layers bring: figures `scaling` and `depth`, a table each, the order of slopes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from novelview.config.schema import Resolution
from novelview.errors import DataError
from novelview.evaluation.published import PublishedRow
from novelview.evaluation.scores import bounds, clusters, draws
from novelview.figures.results import RESAMPLES, SEED, Evaluation, Results, Score, Target, grouped, sections
from novelview.figures.results_table import perceptual
from novelview.figures.style import BASELINES, MUTED, colour, count_ticks, draw_scores, label, legend_below, title_of
from novelview.figures.tables import NONE, Cell, Grid, Row, Table, difference, difference_cell, score_cell, verdict

FACTOR = 4.0  # slopes are dB per so many times the scenes, as published
SPLIT = "full"
HEADER = ("model", "resolution", "set", "split", "subset", "scenes", "psnr", "low", "high")
HEADER += ("slope", "slope_low", "slope_high")
VERDICTS = {"win": "agrees", "loss": "disagrees", "tie": "undecided"}
HEADS = {"agrees": "Agree", "disagrees": "Disagree", "undecided": "Undecided, the interval holds 0"}
STACKS = ("n_layer", "encoder_n_layer", "decoder_n_layer")
MARKERS = {"lvsm_decoder_only": "o", "lvsm_encoder_decoder": "^"}
DEPTH_HEADER = ("model", "architecture", "layers", "parameters", "updates", "resolution", "set", "split")
DEPTH_HEADER += ("psnr", "low", "high")
CAVEAT = (
    "Intervals are bootstraps over test scenes that all subsets and systems meet with the same draws; how much another "
    "training seed, other rooms or more training would change a slope is not in them."
)


@dataclass(frozen=True)
class Line:
    """One model at one resolution, judged on one split of one set after training on subsets of growing size.

    scores: mean PSNR [dB] by training `scenes`; slope: the least-squares fit in dB per `FACTOR` times the scenes, with
    the interval of a bootstrap over test scenes; level: the fit at one scene; drawn: the slope a resample."""

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
    """Return a line a model trained on two subsets or more, resolution, set and split.

    Raises DataError when there is none, or when the subsets of a line were judged on different images."""
    known = sorted((item for item in evaluations if item.train_scenes), key=lambda item: item.train_scenes)
    groups = grouped(known, lambda item: (item.dataset, item.model, item.resolution))
    ladders = [groups[key] for key in sorted(groups) if len({item.train_scenes for item in groups[key]}) > 1]
    if not ladders:
        what = "no model was trained on two subsets or more; name them as `subsets` in the study"
        raise DataError(f"figure scaling: {what}")
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
    labels = clusters([image[0] for image in images])
    sums, counts = np.stack([np.bincount(labels, row) for row in values], axis=1), np.bincount(labels)
    resamples = draws(len(counts), RESAMPLES, SEED)  # all subsets meet the same, so what they share cancels out
    means = (resamples @ sums) / (resamples @ counts)[:, None]
    places = np.log(scenes) / math.log(FACTOR)
    centred = places - places.mean()
    drawn = means @ centred / (centred @ centred)
    place = (own[0].model, own[0].resolution, name, split, tuple(item.subset for item in own))
    return Line(*place, scenes, scores, Score(slope, *bounds(drawn)), level, drawn, images)


def fit(scenes: Sequence[int], psnr: Float[np.ndarray, " subsets"]) -> tuple[float, float]:
    """Return slope [dB per `FACTOR` times the scenes] and level [dB at one scene] of the least-squares line."""
    slope, level = np.polyfit(np.log(scenes) / math.log(FACTOR), psnr, 1)
    return float(slope), float(level)


def main_lines(results: Results) -> list[Line]:
    """Return the lines on the split `full` of every set, or on its first split where that was not evaluated."""
    found = lines(results.ladder)
    sets = {line.set: line.split for line in reversed(found)}
    sets |= {line.set: SPLIT for line in found if line.split == SPLIT}
    return [line for line in found if line.split == sets[line.set]]


def scaling(results: Results) -> Figure:
    """Draw a row a resolution: PSNR against training scenes for every set, then the slopes, ours and published."""
    found, gains = main_lines(results), results.published("scaling_gain")
    sizes, sets = (list(dict.fromkeys(getattr(line, key) for line in found)) for key in ("resolution", "set"))
    most = max(sum(line.resolution == size for line in found) for size in sizes)
    height = max(3.0, 0.8 + 0.24 * (most + len(gains)))  # inches of a row, in which every slope has a line of its own
    shape = {"figsize": (3.3 * len(sets) + 4.2, height * len(sizes) + 0.5), "width_ratios": [*(3.3 for _ in sets), 3.6]}
    figure, axes = plt.subplots(len(sizes), len(sets) + 1, squeeze=False, layout="constrained", **shape)
    for row, size in zip(axes, sizes, strict=True):
        own = [line for line in found if line.resolution == size]
        for axis, name in zip(row, sets, strict=False):
            lines = [line for line in own if line.set == name]
            for line in lines:
                look = {"fmt": "o", "markersize": 4.5, "elinewidth": 1, "label": label(line.model)}
                draw_scores(axis, zip(line.scenes, line.scores, strict=True), line.model, **look)
                fit = [line.at(scenes) for scenes in line.scenes]
                axis.plot(line.scenes, fit, color=colour(line.model), label="_fit")
            count_ticks(axis, (count for line in lines for count in line.scenes), "Training scenes")
            axis.set_title(f"{title_of(name).capitalize()}, {size} px")
        row[0].set_ylabel("PSNR [dB]")
        _draw_slopes(row[-1], own, gains)
    legend_below(figure, axes[:, 0], 4)  # a system may be in the row of one resolution only
    return figure


def _draw_slopes(axis: Axes, own: Sequence[Line], rows: Sequence[PublishedRow]) -> None:
    names = [f"{label(line.model)}, {title_of(line.set)}" for line in own]
    for place, line in enumerate(own):
        mean, low, high = line.slope
        spans = [[max(mean - low, 0)], [max(high - mean, 0)]]
        axis.errorbar([mean], [place], xerr=spans, fmt="o", color=colour(line.model), capsize=2)
    slopes = [line.slope.mean for line in own]
    for place, row in enumerate(_ranked(rows), start=len(own)):
        slopes.append(row.psnr_gain_per_4x or 0.0)
        axis.plot([slopes[-1]], [place], "D", color=colour(row.model) if row.model else MUTED, markerfacecolor="white")
        names.append(f"{row.method}, published")
    for place, slope in enumerate(slopes):
        axis.annotate(f"{slope:.2f}", (slope, place), (0, 5), textcoords="offset points", fontsize=7)
    axis.axvline(0, color=MUTED, linewidth=0.7)
    axis.set_yticks(range(len(names)), names)
    axis.margins(x=0.15)
    axis.set(xlabel="dB per four times the scenes", title="Slopes", ylim=(len(names) - 0.4, -0.7))


def _ranked(rows: Sequence[PublishedRow]) -> list[PublishedRow]:
    return sorted(rows, key=lambda row: -(row.psnr_gain_per_4x or 0))


def scaling_table(results: Results) -> Table:
    """Return PSNR by number of training scenes and the slope, published ones below; the records are of every split."""
    found, gains = main_lines(results), results.published("scaling_gain")
    scenes, rows = sorted({count for line in found for count in line.scenes}), []
    for line in found:
        psnr = dict(zip(line.scenes, line.scores, strict=True))
        texts = (Cell(f"{psnr[count].mean:.2f}" if count in psnr else NONE) for count in scenes)
        head = (label(line.model), f"ours: {title_of(line.set)}, {line.resolution} px")
        rows.append(Row(head, (*texts, difference_cell(line.slope, toned=False))))
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


@dataclass(frozen=True)
class Pair:
    """Two systems; the published slope of the first is larger by `published` [dB per four times the scenes].

    verdict: agrees where the interval of our difference lies above 0, disagrees below, undecided where it holds 0."""

    first: str
    second: str
    published: float
    ours: Score
    verdict: str


def pairs(own: Sequence[Line], rows: Sequence[PublishedRow]) -> list[Pair]:
    """Return pairs with different published slopes, largest first, of lines of the same images, subsets and split."""
    gains, found = _gains(rows), []
    known = sorted((line for line in own if line.model in gains), key=lambda line: -gains[line.model])
    for first, second in combinations(known, 2):
        gain = gains[first.model] - gains[second.model]
        if gain > 0 and (first.images, first.scenes) == (second.images, second.scenes):
            ours = Score(first.slope.mean - second.slope.mean, *bounds(first.drawn - second.drawn))
            found.append(Pair(first.model, second.model, gain, ours, VERDICTS[verdict(ours)]))
    return sorted(found, key=lambda pair: -pair.published)


def _gains(rows: Sequence[PublishedRow]) -> dict[str, float]:
    return {row.model: row.psnr_gain_per_4x for row in rows if row.model and row.psnr_gain_per_4x is not None}


def orderings(found: Sequence[Line], rows: Sequence[PublishedRow]) -> list[str]:
    """Return paragraphs: the published order, then which pairs agree with it on each set and resolution.

    Without two of our systems among the published gains `rows` there is nothing to say."""
    if len({line.model for line in found} & _gains(rows).keys()) < 2:
        return []
    ordered = sorted(found, key=lambda line: line.resolution)
    groups = grouped(ordered, lambda line: (line.resolution, line.set, line.split)).values()
    return [_published_order(rows, found), *(_our_order(own, pairs(own, rows)) for own in groups), CAVEAT]


def _published_order(rows: Sequence[PublishedRow], found: Sequence[Line]) -> str:
    order, ours = _ranked(rows), dict.fromkeys(line.model for line in found)
    listed = ", ".join(f"{row.method} {row.psnr_gain_per_4x:+.2f}" for row in order)
    stand = [f"{label(row.model)} stands for {row.method}" for row in order if row.model in ours and row.note]
    left = [label(model) for model in ours if model not in {row.model for row in order}]
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
    texts: dict[str, list[str]] = {name: [] for name in HEADS}
    for pair in found:
        names = f"{label(pair.first)} over {label(pair.second)}"
        texts[pair.verdict].append(f"{names} {difference(pair.ours)}, published {pair.published:+.2f}")
    agrees, disagrees, undecided = map(len, texts.values())
    tally = f"pairs of systems in the published order: {agrees} of {len(found)}"
    tally += f", in the opposite one: {disagrees}, undecided: {undecided}"
    listed = [f"{HEADS[name]}: {'; '.join(own)}." for name, own in texts.items() if own]
    return f"{head}: {order}; {tally}. {' '.join(listed)}"


@dataclass(frozen=True)
class Point:
    """One run: its architecture (registry name), layers over all stacks, updates it was trained for."""

    evaluation: Evaluation
    architecture: str
    layers: int
    steps: int


def points(evaluations: Sequence[Evaluation]) -> list[Point]:
    """Return the runs with known depth, shallow ones first; raises DataError when there are none."""
    found = []
    for item in evaluations:
        model = item.config.get("model", {})
        layers = sum(int(model.get(key, 0)) for key in STACKS)
        if layers:
            found.append(Point(item, str(model["name"]), layers, int(item.config["train"]["steps"])))
    if not found:
        raise DataError(f"figure depth: no evaluation in {evaluations[0].folder.parent} says how deep its model is")
    return sorted(found, key=lambda point: (point.architecture, -point.steps, point.layers))


def depth(results: Results) -> Figure:
    """Draw PSNR on the split `full` against depth, a panel a set, and the published rows in one more panel."""
    found = points(results.evaluations)
    sets = [name for name, splits in sections(point.evaluation for point in found) if SPLIT in splits]
    rows = results.published("depth")
    if not sets:
        raise DataError(f"figure depth: split '{SPLIT}' was not evaluated; add it to eval.splits")
    count = len(sets) + bool(rows)
    figure, axes = plt.subplots(1, count, figsize=(3.6 * count, 3.2), squeeze=False, layout="constrained")
    for axis, name in zip(axes[0], sets, strict=False):
        _draw_depths(axis, found, name)
    if rows:
        _draw_published_depths(axes[0, -1], rows)
    plt.setp(axes[0], xlabel="Transformer layers")
    axes[0, 0].set_ylabel("PSNR [dB]")
    legend_below(figure, axes[0], 2)
    return figure


def _draw_depths(axis: Axes, found: Sequence[Point], name: str) -> None:
    for (architecture, steps), own in grouped(found, lambda point: (point.architecture, point.steps)).items():
        drawn = [(point.layers, scores["psnr"]) for point in own if (scores := point.evaluation.scores(name, SPLIT))]
        longest = max(point.steps for point in found if point.architecture == architecture)
        look = {"marker": MARKERS.get(architecture, "o"), "markersize": 4.5, "elinewidth": 1}
        look["markerfacecolor"] = colour(architecture) if steps == longest else "white"
        look["label"] = f"{label(architecture)}, {steps} updates"
        draw_scores(axis, drawn, architecture, **look)
    best = [found[0].evaluation.scores(name, SPLIT, baseline) for baseline in BASELINES]
    if levels := [scores["psnr"].mean for scores in best if scores]:
        axis.axhline(max(levels), color=colour("mean_context"), linestyle="--", label="Best trivial baseline")
    axis.set_xticks(sorted({point.layers for point in found}))
    sizes = dict.fromkeys(f"{point.evaluation.resolution} px" for point in found)
    axis.set_title(f"{title_of(name).capitalize()}, {', '.join(sizes)}")


def _draw_published_depths(axis: Axes, rows: Sequence[PublishedRow]) -> None:
    for architecture in MARKERS:
        kind = "encoder" if "encoder" in architecture else "decoder-only"
        own = sorted((row.layers or 0, row.psnr or 0.0) for row in rows if kind in row.method)
        (line,) = axis.plot([layers for layers, _ in own], [psnr for _, psnr in own], marker=MARKERS[architecture])
        line.set(color=colour(architecture), markersize=4.5, linestyle="-" if kind == "decoder-only" else "none")
    axis.set_xticks(sorted({row.layers for row in rows if row.layers}))
    axis.set_title(f"Published: {rows[0].dataset}, {rows[0].resolution} px")


def depth_table(results: Results) -> Table:
    """Return depth, parameters and scores of every run, a column a set; published rows in a column of their own."""
    found, rows, records = points(results.evaluations), [], []
    sets = [name for name, splits in sections(results.evaluations) if SPLIT in splits]
    for point in found:
        item, parameters = point.evaluation, point.evaluation.summary["parameters"]
        head = (label(item.model), str(point.layers), f"{parameters:,}", str(point.steps), f"{item.resolution} px")
        rows.append(Row(head, (*(score_cell(item.scores(name, SPLIT)) for name in sets), Cell(NONE))))
        facts = (item.model, point.architecture, point.layers, parameters, point.steps, item.resolution)
        own = [group for group in item.groups if group.model == item.model]
        records += [[*facts, group.set, group.split, *group.scores["psnr"]] for group in own]
    for one in results.published("depth"):
        scores = Cell(f"{one.psnr:.2f}", f" / {one.ssim} / {one.lpips}")
        head = (one.method, str(one.layers), NONE, NONE, f"{one.resolution} px")
        rows.append(Row(head, (*(Cell(NONE) for _ in sets), scores), "published", 1))
    notes = (
        f"Cells: PSNR [dB] / SSIM / {perceptual(results.evaluations)} / sharpness on split {SPLIT}, means over "
        "target images.",
        "Published rows are without the last. Layers: of all stacks together.",
        "Rows of other updates were trained by another recipe: compare within one.",
    )
    columns = (*map(title_of, sets), "published")
    grid = Grid("Depth", ("Method", "Layers", "Parameters", "Updates", "Size"), columns, tuple(rows), notes)
    return Table((grid,), DEPTH_HEADER, records)
