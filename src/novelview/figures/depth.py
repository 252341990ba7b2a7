"""Figure `depth` and table `depth_table`: PSNR against the number of transformer layers, ours and as published."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from novelview.errors import DataError
from novelview.evaluation.published import PublishedRow
from novelview.figures.results import Evaluation, Results, sections
from novelview.figures.style import BASELINES, colour, draw_scores, label, legend_below, title_of
from novelview.figures.tables import NONE, Cell, Grid, Row, Table, score_cell

SPLIT = "full"
STACKS = ("n_layer", "encoder_n_layer", "decoder_n_layer")
MARKERS = {"lvsm_decoder_only": "o", "lvsm_encoder_decoder": "^"}
HEADER = ("model", "architecture", "layers", "parameters", "updates", "resolution", "set", "split")
HEADER += ("psnr", "low", "high")


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
    sets = _sets([point.evaluation for point in found])
    rows = results.published("depth")
    if not sets:
        raise DataError(f"figure depth: split '{SPLIT}' was not evaluated; add it to eval.splits")
    count = len(sets) + bool(rows)
    figure, axes = plt.subplots(1, count, figsize=(3.6 * count, 3.2), squeeze=False, layout="constrained")
    for axis, name in zip(axes[0], sets, strict=False):
        _draw_set(axis, found, name)
    if rows:
        _draw_published(axes[0, -1], rows)
    for axis in axes[0]:
        axis.set_xlabel("Transformer layers")
    axes[0, 0].set_ylabel("PSNR [dB]")
    legend_below(figure, axes[0], 2)
    return figure


def _sets(evaluations: Sequence[Evaluation]) -> list[str]:
    return [name for name, splits in sections(evaluations) if SPLIT in splits]


def _draw_set(axis: Axes, found: Sequence[Point], name: str) -> None:
    for architecture, steps in dict.fromkeys(point.recipe for point in found):
        own = [point for point in found if point.recipe == (architecture, steps)]
        drawn = [(point.layers, scores["psnr"]) for point in own if (scores := point.evaluation.scores(name, SPLIT))]
        longest = max(point.steps for point in found if point.architecture == architecture)
        look = {"marker": MARKERS.get(architecture, "o"), "markersize": 4.5, "elinewidth": 1}
        look["markerfacecolor"] = colour(architecture) if steps == longest else "white"
        look["label"] = f"{label(architecture)}, {steps} updates"
        draw_scores(axis, drawn, architecture, **look)
    best = [found[0].evaluation.scores(name, SPLIT, baseline) for baseline in BASELINES]
    if any(best):
        level = max(scores["psnr"].mean for scores in best if scores)
        axis.axhline(level, color=colour("mean_context"), linestyle="--", label="Best trivial baseline")
    axis.set_xticks(sorted({point.layers for point in found}))
    sizes = dict.fromkeys(f"{point.evaluation.resolution} px" for point in found)
    axis.set_title(f"{title_of(name).capitalize()}, {', '.join(sizes)}")


def _draw_published(axis: Axes, rows: Sequence[PublishedRow]) -> None:
    for architecture in MARKERS:
        kind = "encoder" if "encoder" in architecture else "decoder-only"
        own = sorted((row.layers or 0, row.psnr or 0.0) for row in rows if kind in row.method)
        (line,) = axis.plot([layers for layers, _ in own], [psnr for _, psnr in own], marker=MARKERS[architecture])
        line.set(color=colour(architecture), markersize=4.5, linestyle="-" if kind == "decoder-only" else "none")
    axis.set_xticks(sorted({row.layers for row in rows if row.layers}))
    axis.set_title(f"Published: {rows[0].dataset}, {rows[0].resolution} px")


def depth_table(results: Results) -> Table:
    """Return depth, parameters and scores of every run, a column a set; published rows in a column of their own."""
    found, sets = points(results.evaluations), _sets(results.evaluations)
    rows, records = [], []
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
        f"Cells: PSNR [dB] / SSIM / LPIPS / sharpness on split {SPLIT}, means over target images.",
        "Published rows are without the last. Layers: of all stacks together.",
        "Rows of other updates were trained by another recipe: compare within one.",
    )
    columns = (*map(title_of, sets), "published")
    grid = Grid("Depth", ("Method", "Layers", "Parameters", "Updates", "Size"), columns, tuple(rows), notes)
    return Table((grid,), HEADER, records)
