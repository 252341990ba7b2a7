"""Plots of scores, costs, training and camera paths: figures `gaps`, `views`, `training_curves` and `camera_paths`."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from novelview.config.schema import Resolution
from novelview.errors import ConfigError, DataError
from novelview.figures.results import Curve, Evaluation, Results, finest, grouped, sections
from novelview.figures.style import (
    BASELINES,
    LOSS,
    MUTED,
    colour,
    count_ticks,
    draw_scores,
    label,
    legend_below,
    spaced,
    title_of,
)
from novelview.files import read_json

MARKERS = {"nearest_context": "s", "mean_context": "D", "mean_colour": "v"}
PANELS = {True: "Gap between the context views [frames]", False: "Split"}
COUNTED = re.compile(r"(?:random|uniform|kmeans)(\d+)")
SIZE_STYLES = ("-", "--", ":", "-.")
COSTS = {"reconstruct_s": "Reconstruction [ms]", "render_s": "Rendering, each view [ms]"}
CURVES = (
    ("psnr", "Training PSNR [dB]", "linear"),
    ("loss", "Training loss", "log"),
    ("lr", "Learning rate", "linear"),
    ("grad_norm", "Gradient norm before clipping", "log"),
)
PHASE_STYLES = ("-", (0, (4, 1.5)), (0, (1, 1)))
MAX_SCENES = 4
SIDES = (("from above", 0, 2), ("from the side", 2, 1))  # OpenCV axes: x right, y down, z forward


def gaps(results: Results) -> Figure:
    """Draw PSNR by context gap and overlap class, a row a set and resolution; DataError when nothing was evaluated."""
    rows = _gap_rows(results.evaluations)
    if not rows:
        raise DataError(f"{results.folders[0]}: no split was evaluated; run the evaluation again")
    columns = max(len(panels) for _, _, panels in rows)
    size = (4.8 * columns, 2.7 * len(rows) + 0.6)
    figure, axes = plt.subplots(len(rows), columns, figsize=size, sharey="row", squeeze=False, layout="constrained")
    for line, (name, own, panels) in zip(axes, rows, strict=True):
        for axis, (title, splits) in zip(line, panels, strict=False):
            _draw_gaps(axis, own, name, title, splits)
        for axis in line[len(panels) :]:
            axis.remove()
        line[0].set_title(f"{title_of(name).capitalize()}, {own[0].resolution} px")
        line[0].set_ylabel("PSNR [dB]")
    legend_below(figure, axes.flat, 3, first=True)
    return figure


def _gap_rows(evaluations: list[Evaluation]) -> list[tuple[str, list[Evaluation], list[tuple[str, list[str]]]]]:
    """Return (set, the evaluations at one resolution, title and splits of each panel) for every row."""
    found = []
    for name, splits in sections(evaluations):
        for size in sorted({evaluation.resolution for evaluation in evaluations}):
            own = [item for item in evaluations if item.resolution == size]
            there = [split for split in splits if any(item.group(name, split) for item in own)]
            panels = grouped(there, lambda split: bool(re.fullmatch(r"gap\d+", split)))
            if there:
                found.append((name, own, [(PANELS[kind], panels[kind]) for kind in (True, False) if kind in panels]))
    return found


def _draw_gaps(axis: Axes, evaluations: list[Evaluation], set_name: str, title: str, splits: list[str]) -> None:
    series = [(item, item.model) for item in evaluations] + [(evaluations[0], name) for name in BASELINES]
    for offset, (evaluation, model) in zip(np.linspace(-0.2, 0.2, len(series)), series, strict=True):
        own = [(place, evaluation.scores(set_name, split, model)) for place, split in enumerate(splits)]
        points = [(place + offset, scores["psnr"]) for place, scores in own if scores]
        look = {"label": label(model), "marker": MARKERS.get(model, "o"), "markersize": 4.5, "elinewidth": 1}
        look["linestyle"] = ("--" if model in BASELINES else "-") if splits[0].startswith("gap") else "none"
        if points:
            draw_scores(axis, points, model, **look)
    names = (spaced(split).removeprefix("gap").replace("extrapolation", "extrap.") for split in splits)
    axis.set_xticks(range(len(splits)), names)
    axis.set(xlabel=title, xlim=(-0.5, len(splits) - 0.5))


@dataclass(frozen=True)
class Cost:
    """Seconds to reconstruct a scene from `views` context views and to render one view of it."""

    model: str
    resolution: Resolution
    views: int
    reconstruct_s: float
    render_s: float


def views(results: Results) -> Figure:
    """Draw PSNR by number of context views, and costs where extras have them; DataError when no split has a number."""
    evaluations = results.evaluations
    sets = [name for name, splits in sections(evaluations) if any(COUNTED.fullmatch(split) for split in splits)]
    if not sets:
        raise DataError("figure views: no split counts its context views; evaluate with eval.context_counts=[2,4,8]")
    costs = [row for path in results.extras if path.suffix == ".csv" for row in read_costs(path)]
    panels = len(sets) + (len(COSTS) if costs else 0)
    figure, axes = plt.subplots(1, panels, figsize=(3.3 * panels, 3.2), squeeze=False, layout="constrained")
    sizes = sorted({item.resolution for item in evaluations} | {row.resolution for row in costs})
    for axis, name in zip(axes[0], sets, strict=False):
        _draw_quality(axis, evaluations, name, sizes)
    for axis, (column, title) in zip(axes[0, len(sets) :], COSTS.items(), strict=False):
        for (model, size), rows in grouped(costs, lambda row: (row.model, row.resolution)).items():
            own = sorted(rows, key=lambda row: row.views)
            times = [1000 * getattr(row, column) for row in own]
            axis.plot([row.views for row in own], times, color=colour(model), **_look(model, size, sizes))
        count_ticks(axis, (row.views for row in costs), "Context views", base=2)
        axis.set(title=title, ylim=(0, None))
    legend_below(figure, axes.flat, 2)
    return figure


def read_costs(path: Path) -> list[Cost]:
    """Read the CSV of stage `latency`; raises DataError for another file."""
    try:
        with open(path, newline="") as stream:
            rows = [(row, Resolution.parse(row["resolution"])) for row in csv.DictReader(stream)]
        return [Cost(row["model"], size, int(row["views"]), *(float(row[key]) for key in COSTS)) for row, size in rows]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; run the latency stage first") from None
    except (KeyError, ValueError, TypeError, ConfigError) as error:
        raise DataError(f"{path}: not a table of the latency stage ({error}); run it again") from None


def _draw_quality(axis: Axes, evaluations: Sequence[Evaluation], name: str, sizes: Sequence[Resolution]) -> None:
    counts: list[int] = []
    for item in evaluations:
        for model in (item.model, "nearest_context"):
            own = [group for group in item.groups if (group.model, group.set) == (model, name)]
            points = [(int(found[1]), one.scores["psnr"]) for one in own if (found := COUNTED.fullmatch(one.split))]
            points.sort(key=lambda point: point[0])
            draw_scores(axis, points, model, **_look(model, item.resolution, sizes))
            counts += [count for count, _ in points if model == item.model]
    count_ticks(axis, counts, "Context views", base=2)
    axis.set(title=title_of(name).capitalize(), ylabel="PSNR [dB]")


def _look(model: str, size: Resolution, sizes: Sequence[Resolution]) -> dict[str, Any]:
    style = SIZE_STYLES[sizes.index(size) % len(SIZE_STYLES)]
    return {"linestyle": style, "marker": "o", "markersize": 4, "label": f"{label(model)}, {size} px"}


def training_curves(results: Results) -> Figure:
    """Draw PSNR, loss, learning rate and gradient norm against the step, phases end to end; DataError without logs."""
    if not results.logs:
        raise DataError("figure training_curves: no training logs given; name them as io.curves=[.../train.csv]")
    groups = group_phases(results.curves)
    figure, axes = plt.subplots(2, 2, figsize=(9.2, 5.6), sharex=True, layout="constrained")
    for axis, (column, title, scale) in zip(axes.flat, CURVES, strict=True):
        for group in groups:
            _draw_phases(axis, group, column)
        axis.set(title=title, yscale=scale)
    plt.setp(axes[1], xlabel="Step (phases end to end)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(groups))
    return figure


def group_phases(curves: list[Curve]) -> list[list[Curve]]:
    """Group the curves of one model on one data set, resolutions ascending: pretraining, then finetuning."""
    ordered = sorted(curves, key=lambda curve: (curve.model, curve.data, curve.resolution))
    return list(grouped(ordered, lambda curve: (curve.model, curve.data)).values())


def _draw_phases(axis: Axes, group: list[Curve], column: str) -> None:
    start = 0
    for phase, curve in enumerate(group):
        steps = start + curve.columns["step"]
        values, skipped = curve.columns[column], curve.columns["skipped"]
        name = label(curve.model) + (f", {curve.resolution} px" if curve.resolution else "")
        style = PHASE_STYLES[: phase + 1][-1]
        axis.plot(steps, values, color=colour(curve.model), linestyle=style, label=name)
        if phase:
            axis.axvline(start, color=MUTED, linewidth=0.7, linestyle=":")
        start += curve.steps
        rows = skipped > 0
        if column == "grad_norm" and rows.any():  # cross the rows in whose steps updates were skipped
            axis.plot(steps[rows], values[rows], "x", color=LOSS, markersize=5, zorder=5)
            last, note = (steps[rows][-1], values[rows][-1]), f"\u00d7 {int(skipped.sum())} updates skipped"
            axis.annotate(note, last, xytext=(5, 5), textcoords="offset points", fontsize=7, color=LOSS)


@dataclass(frozen=True)
class Path3D:
    """True and Sim(3)-aligned estimated cameras [n 4 4] of a scene, in the scene's units.

    errors: the mean ones in words, beside the spread, root mean square distance of the true centres from their mean."""

    name: str
    true: Float[np.ndarray, "n 4 4"]
    estimated: Float[np.ndarray, "n 4 4"]
    errors: str


def camera_paths(results: Results) -> Figure:
    """Draw estimated against true camera centres, a row a scene; DataError when no evaluation holds estimated poses."""
    evaluations = finest(item for item in results.evaluations if (item.folder / "poses.json").is_file())
    rows = [(item, path) for item in evaluations for path in read_paths(item)[:MAX_SCENES]]
    if not rows:
        raise DataError("figure camera_paths: none of the evaluations estimated poses; give one of a model that does")
    figure, axes = plt.subplots(len(rows), 2, figsize=(8.4, 2.7 * len(rows) + 0.6), squeeze=False, layout="constrained")
    for line, (evaluation, path) in zip(axes, rows, strict=True):
        for axis, side in zip(line, SIDES, strict=True):
            _draw_path(axis, path, colour(evaluation.model), *side)
        line[0].set_title(f"{evaluation.name}: {path.name}", fontsize=9)
        line[1].set_title(path.errors, fontweight="normal", fontsize=9)
    legend_below(figure, axes[0, :1], 3)
    return figure


def read_paths(evaluation: Evaluation) -> list[Path3D]:
    """Read the estimated and true cameras an evaluation kept; raises DataError when they do not pair up."""
    file, found = evaluation.folder / "poses.json", []
    try:
        for entry in read_json(file):
            true, estimated = (np.asarray(entry[name], dtype=np.float64) for name in ("true", "estimated"))
            if true.shape != estimated.shape or true.shape[1:] != (4, 4):
                raise ValueError(f"shapes {true.shape} and {estimated.shape}")
            rotation, translation, spread = (np.mean(entry[name]) for name in ("rotation_deg", "translation", "spread"))
            errors = f"rotation {rotation:.1f}°, translation {translation:.3f} (spread {spread:.3f})"
            found.append(Path3D(f"{entry['scene']} ({entry['set']}, {entry['split']})", true, estimated, errors))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file}: not a list of camera paths ({error}); run the evaluation again") from None
    return found


def _draw_path(axis: Axes, path: Path3D, tint: str, side: str, across: int, up: int) -> None:
    drawn = ((path.true, MUTED, "o", "true"), (path.estimated, tint, "^", "estimated, aligned"))
    for cameras, shade, marker, name in drawn:
        centres = cameras[:, :3, 3]
        axis.plot(centres[:, across], centres[:, up], marker=marker, markersize=4, color=shade, label=name)
        # A short stroke a camera: its viewing direction.
        ends = centres + 0.12 * max(float(np.ptp(centres, axis=0).max()), 1e-6) * cameras[:, :3, 2]
        strokes = np.stack([centres, ends])
        axis.plot(strokes[..., across], strokes[..., up], color=shade, linewidth=0.9, alpha=0.7)
    pairs = np.stack([path.true, path.estimated])[:, :, :3, 3]
    axis.plot(pairs[..., across], pairs[..., up], ":", color=MUTED, linewidth=0.7)
    axis.set(xlabel=f"{'xyz'[across]} [scene units], {side}", ylabel="xyz"[up])
    axis.set_aspect("equal", adjustable="datalim")
    if up == 1:
        axis.invert_yaxis()
