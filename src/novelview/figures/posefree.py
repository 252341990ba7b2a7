"""Figure `posefree` and table `posefree_table`: scores on given and on estimated cameras, on the same targets."""

from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from novelview.config.compose import compose
from novelview.config.plan import weights_of
from novelview.config.schema import Study
from novelview.errors import DataError
from novelview.figures.results import METRICS, Evaluation, Place, Results, Score, Target, grouped, largest
from novelview.figures.results_table import perceptual
from novelview.figures.style import MUTED, colour, draw_scores, label, legend_below, spaced, split_order, title_of
from novelview.figures.tables import NONE, Cell, Grid, Row, Scores, Table, difference_cell, score_cells
from novelview.files import read_json, require_listed

GIVEN = "given"
CLASSES = ("large", "medium", "small")
NAMES = {"given": "given", "colmap": "COLMAP", "vggt": "VGGT"}
MARKERS = {"given": "o", "colmap": "^", "vggt": "D"}
ERRORS = {"rotation_deg": "Rotation error after Sim(3) [°]", "translation": "Centre's error / spread of the path"}
SMALLEST = {"rotation_deg": 1e-2, "translation": 1e-3}  # where the logarithmic axes begin: smaller is no error
HEADER = ("model", "resolution", "cameras", "set", "split", "targets", "metric", "mean", "low", "high")
QUALITY = {
    "rotation_deg": "rotation [°]",
    "relative_rotation_deg": "relative rotation [°]",
    "translation_over_spread": "translation / spread",
    "reprojection_px": "reprojection [px]",
}


def posed(item: Evaluation) -> bool:
    """Tell whether a model takes poses at all."""
    return any(item.summary.get("given", {}).get(key) for key in ("context_poses", "target_poses"))


def judgements(results: Results) -> list[Evaluation]:
    """Return evaluations on all cameras: models in name order, given cameras before estimated ones."""
    order = {name: place for place, name in enumerate(NAMES)}
    found = largest(results.everything)
    return sorted(found, key=lambda one: (one.model, one.resolution, order.get(one.cameras, len(order))))


def places(found: Sequence[Evaluation]) -> list[tuple[str, list[str]]]:
    """Return every set with its overlap classes, or all of its splits where it has no classes."""
    sets = grouped(dict.fromkeys(place for one in found for place in one.rows), lambda place: place[0])
    splits = {name: sorted((split for _, split in own), key=split_order) for name, own in sets.items()}
    return [(name, [split for split in own if split in CLASSES] or own) for name, own in splits.items()]


def common(found: Sequence[Evaluation], place: Place) -> list[Target]:
    """Return the targets all estimators placed; one that placed none of a split does not take the others' away."""
    targets = [set(one.rows[place]) for one in found if one.rows.get(place)]
    return sorted(reduce(set.intersection, targets)) if targets else []


def scores_at(found: Sequence[Evaluation], place: Place) -> list[Scores]:
    """Return, for each evaluation, the means over the targets that all have; None where it has none itself."""
    targets = common(found, place)
    scenes = [scene for scene, *_ in targets]
    every = ([one.rows[place][target] for target in targets] if one.rows.get(place) else [] for one in found)
    return [
        {metric: Score.over([getattr(row, metric) for row in rows], scenes) for metric in METRICS} if rows else None
        for rows in every
    ]


def difference(one: Evaluation, other: Evaluation, place: Place) -> tuple[Score, list[tuple[Target, float]]]:
    """Return the mean PSNR difference [dB] over the targets both have, its interval, and every target's own."""
    targets = sorted(set(one.rows.get(place, {})) & set(other.rows.get(place, {})))
    values = [one.rows[place][target].psnr - other.rows[place][target].psnr for target in targets]
    return Score.over(values, [scene for scene, *_ in targets]), list(zip(targets, values, strict=True))


def _record(path: Path) -> dict[str, Any]:
    return read_json(require_listed(path, path.parent, "run the poses stage again"))


def given_of(found: Sequence[Evaluation], one: Evaluation) -> Evaluation:
    """Return the same weights' evaluation on the given cameras; raises DataError where it is missing."""
    for other in found:
        if (other.model, other.resolution, other.cameras) == (one.model, one.resolution, GIVEN):
            return other
    raise DataError(f"{one.folder}: no evaluation of {one.model} on the given cameras beside it")


def absent(found: Sequence[Evaluation], study: Study, scale: str) -> dict[str, str]:
    """Return the estimators the study asks for at a scale and has no scores of, with the reason."""
    reasons, known = {}, {one.cameras for one in found}
    for name in (name for name in study.poses.get(scale, []) if name not in known):
        weights = weights_of(compose("poses", [f"poses={name}"]))
        fetch = f"its weights {weights} were not here; `python -m novelview.stages.fetch {name}` fetches them"
        reasons[name] = fetch if weights else "not evaluated; run the study again"
    return reasons


def posefree(results: Results) -> Figure:
    """Draw PSNR by overlap class, and each target's loss against its camera's error; DataError without evaluations."""
    found = judgements(results)
    sets = places(found)
    if not sets:
        raise DataError(f"{results.folders[0]}: no split was evaluated; run the evaluation again")
    known = {content["estimator"]: content["scenes"] for content in map(_record, results.extras)}
    panels = len(sets) + (len(ERRORS) if known else 0)
    figure, axes = plt.subplots(1, panels, figsize=(3.4 * panels, 3.4), squeeze=False, layout="constrained")
    for axis, (name, splits) in zip(axes[0], sets, strict=False):
        _draw_classes(axis, found, name, splits)
    asked = [(name, split) for name, splits in sets for split in splits]
    for axis, error in zip(axes[0, len(sets) :], ERRORS, strict=False):
        _draw_losses(axis, found, asked, known, error)
    axes[0, 0].set_ylabel("PSNR [dB]")
    legend_below(figure, axes[0, :1], 3)
    return figure


def _draw_classes(axis: Axes, found: Sequence[Evaluation], name: str, splits: list[str]) -> None:
    columns = [scores_at(found, (name, split)) for split in splits]
    offsets = np.linspace(-0.25, 0.25, len(found))
    for one, offset, line in zip(found, offsets, zip(*columns, strict=True), strict=True):
        drawn = [(place + offset, scores["psnr"]) for place, scores in enumerate(line) if scores]
        look = {"linestyle": "none", "marker": MARKERS.get(one.cameras, "s"), "markersize": 5}
        look["markerfacecolor"] = colour(one.model) if one.cameras == GIVEN else "white"
        kind = f"{NAMES.get(one.cameras, one.cameras)} cameras" if posed(one) else "no cameras needed"
        draw_scores(axis, drawn, one.model, label=f"{one.name}, {kind}", **look)
    axis.set_xticks(range(len(splits)), [spaced(split) for split in splits])
    axis.set(xlabel="Overlap of the context views", title=title_of(name).capitalize())


def _draw_losses(
    axis: Axes, found: Sequence[Evaluation], asked: Sequence[Place], known: dict[str, dict], error: str
) -> None:
    for one in (item for item in found if posed(item) and item.cameras in known):
        points = []
        given = given_of(found, one)
        for (scene, _, frame), value in (pair for place in asked for pair in difference(one, given, place)[1]):
            content = known[one.cameras][scene]
            off = content[error][content["placed"].index(frame)]
            scaled = off / content["spread"] if error == "translation" and content["spread"] > 0 else off
            points.append((max(scaled, SMALLEST[error]), value))
        style = {"color": colour(one.model), "marker": MARKERS.get(one.cameras, "s")}
        axis.scatter(*np.array(points).reshape(-1, 2).T, s=9, alpha=0.5, linewidths=0, **style)
    axis.axhline(0, color=MUTED, linewidth=0.8)
    axis.set(xscale="log", xlabel=ERRORS[error], title="Estimated minus given [dB]")


def posefree_table(results: Results) -> Table:
    """Return, for each set, scores on the same targets and what estimated cameras cost; then the cameras themselves."""
    found, grids = judgements(results), []
    missing = absent(found, results.study, results.scale)
    for name, splits in places(found):
        grids.append(_score_grid(found, name, splits, missing))
        if any(one.cameras != GIVEN for one in found):
            grids.append(_cost_grid(found, name, splits))
    return Table((*grids, _camera_grid(found, missing)), HEADER, records(found))


def _score_grid(found: Sequence[Evaluation], name: str, splits: list[str], missing: dict[str, str]) -> Grid:
    lines = list(zip(*(scores_at(found, (name, split)) for split in splits), strict=True))
    rows = [Row(_head(one), cells) for one, cells in zip(found, score_cells(lines), strict=True)]
    sizes = {label(one.model): f"{one.resolution} px" for one in found if posed(one)}
    for estimator in missing:
        cells = tuple(Cell("n/a") for _ in splits)
        rows += [Row((model, size, NAMES.get(estimator, estimator)), cells) for model, size in sizes.items()]
    counts = ", ".join(f"{spaced(split)} {len(common(found, (name, split)))}" for split in splits)
    notes = (
        f"Cells: PSNR [dB] / SSIM / {perceptual(found)} / sharpness, means over targets every estimator placed; bold: "
        "highest PSNR.",
        f"Target images: {counts}. Models at different image sizes are not comparable in level.",
        *(f"{NAMES.get(estimator, estimator)}: n/a, {reason}." for estimator, reason in missing.items()),
    )
    title, head = f"Given and estimated cameras, {title_of(name)}", ("Method", "Size", "Cameras")
    return Grid(title, head, tuple(map(spaced, splits)), tuple(rows), notes)


def _head(one: Evaluation) -> tuple[str, str, str]:
    return label(one.model), f"{one.resolution} px", NAMES.get(one.cameras, one.cameras) if posed(one) else "none"


def _cost_grid(found: Sequence[Evaluation], name: str, splits: list[str]) -> Grid:
    rows = []
    free = [(one, label(one.model)) for one in found if not posed(one)]
    for one in (item for item in found if posed(item) and item.cameras != GIVEN):
        for other, words in [(given_of(found, one), "given cameras"), *free]:
            cells = tuple(difference_cell(difference(one, other, (name, split))[0]) for split in splits)
            rows.append(Row((*_head(one), words), cells))
    note = "Cells: mean PSNR difference [dB] over the targets both have, 95 % bootstrap interval over scenes."
    title, head = f"What estimated cameras cost, {title_of(name)}", ("Method", "Size", "Cameras", "Against")
    return Grid(title, head, tuple(map(spaced, splits)), tuple(rows), (note,))


def _camera_grid(found: Sequence[Evaluation], missing: dict[str, str]) -> Grid:
    known = {one.cameras: one.summary["cameras"] for one in found if one.cameras != GIVEN}
    splits = list(dict.fromkeys(split for content in known.values() for split in content["entries"]))
    columns = ("scenes", "frames", *map(spaced, splits), *QUALITY.values())
    rows = []
    for name, content in known.items():
        counts = content["summary"]
        placed = [(counts["placed_scenes"], counts["scenes"]), (counts["placed_frames"], counts["asked_frames"])]
        entries = (content["entries"].get(split, {"kept": 0, "index": 0}) for split in splits)
        placed += [(entry["kept"], entry["index"]) for entry in entries]
        errors = [NONE if counts.get(key) is None else f"{counts[key]:.3g}" for key in QUALITY]
        texts = (*(f"{own} of {asked}" for own, asked in placed), *errors)
        rows.append(Row((NAMES.get(name, name),), tuple(map(Cell, texts))))
    rows += [Row((NAMES.get(name, name),), tuple(Cell("n/a") for _ in columns)) for name in missing]
    notes = (
        "Scenes, frames and entries of each split: placed of asked. An entry counts when all of its frames are placed.",
        "Rotation and translation: mean over placed frames after Sim(3) to the given cameras, orientations counting as "
        "much as centres; relative rotation: to the scene's first placed frame, which needs no alignment.",
        *(f"{NAMES.get(name, name)}: n/a, {reason}." for name, reason in missing.items()),
    )
    return Grid("The estimated cameras", ("Estimator",), columns, tuple(rows), notes)


def records(found: Sequence[Evaluation]) -> list[list[object]]:
    """Return every score on the targets all estimators placed, in the columns of `HEADER`."""
    lines: list[list[object]] = []
    for place in ((name, split) for name, splits in places(found) for split in splits):
        for one, scores in zip(found, scores_at(found, place), strict=True):
            head = [one.model, one.resolution, one.cameras, *place, len(common(found, place))]
            lines += [[*head, metric, *score] for metric, score in (scores or {}).items() if score.known]
    return lines
