"""What models know of a scene's shape: figure `depth_maps`, table `geometry_table` with differences pair by pair."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from novelview.errors import DataError
from novelview.figures.pictures import Shared, any_of, read_gallery, shared_samples, show, spread
from novelview.figures.results import METRICS, Evaluation, Place, Results, Score, finest, grouped, set_order
from novelview.figures.results_table import perceptual
from novelview.figures.style import MUTED, label, picture_grid, spaced, split_order, title_of
from novelview.figures.tables import NONE, Cell, Grid, Row, Table, score_cell, verdict
from novelview.files import read_json

SIDE = 1.35  # inches of a picture
MAX_ROWS = 6
COLOURS = "viridis_r"  # near is bright
COLUMNS = {"abs_rel": "Abs rel ↓", "delta1": "δ < 1.25 ↑"}
COLUMNS |= {"accuracy": "Accuracy [m] ↓", "completeness": "Completeness [m] ↓", "chamfer": "Chamfer [m] ↓"}
LOWER_IS_BETTER = {"abs_rel", "accuracy", "completeness", "chamfer"}
HEADER = ("model", "resolution", "set", "split", "measure", "mean", "low", "high", "count")

Measured = tuple[Evaluation, dict[str, Any]]  # an evaluation and one of the groups its geometry was measured on


def depth_maps(results: Results) -> Figure:
    """Draw first context view, its depths, target and renders; DataError when none of the models predicts depth."""
    kept = [(item, read_gallery(item)) for item in finest(results.evaluations)]
    kept = [(item, gallery) for item, gallery in kept if any(sample.depth is not None for sample in gallery)]
    if not kept:
        raise DataError("figure depth_maps: none of the evaluated models predicts depth; take it out of the study")
    rows = spread(shared_samples([gallery for _, gallery in kept]), MAX_ROWS)
    rows = [row for row in rows if any(one and one.depth is not None for one in row)]
    known = any(one and one.true_depth is not None for row in rows for one in row)
    names = [item.name.replace(", ", "\n") for item, _ in kept]
    depths, renders = ([f"{name}\n{what}" for name in names] for what in ("depth", "render"))
    titles = ["Context view", *(["True depth"] if known else []), *depths, "Target", *renders]
    size = SIDE * len(titles) + 0.6, (SIDE + 0.3) * len(rows) + 0.4
    figure, axes = picture_grid(len(rows), titles, size, layout="constrained")
    for line, row in zip(axes, rows, strict=True):
        _draw_row(figure, line, row, known)
    return figure


def _draw_row(figure: Figure, line: np.ndarray, row: Shared, known: bool) -> None:
    sample = any_of(row)
    truths = [one.true_depth for one in row if one and one.true_depth is not None][:1]
    shown = truths or [one.depth for one in row if one and one.depth is not None]
    values = np.concatenate([part[0].ravel() for part in shown])
    low = float(values.min())
    scale = Normalize(low, max(float(values.max()), low + 1e-3))
    picture, *others = line
    picture.imshow(sample.context[0], interpolation="nearest")
    picture.set_ylabel(sample.caption, fontsize=6.5, color=MUTED)
    if known:
        show(others.pop(0), truths[0][0] if truths else None, cmap=COLOURS, norm=scale)
    for axis, one in zip(others, row, strict=False):
        depth = one.depth[0] if one and one.depth is not None else None
        truth = one.true_depth[0] if one and one.true_depth is not None else None
        error = None if depth is None or truth is None else (np.abs(depth - truth) / truth).mean()
        show(axis, depth, "" if error is None else f"abs rel {float(error):.3f}", cmap=COLOURS, norm=scale)
    target, *renders = others[len(row) :]
    show(target, sample.target)
    for axis, one in zip(renders, row, strict=True):
        if one:
            show(axis, one.render, f"{one.psnr:.2f} dB")
    bar = figure.colorbar(ScalarMappable(scale, COLOURS), ax=list(line), shrink=0.8, pad=0.01)
    bar.ax.tick_params(labelsize=6)
    bar.set_label("depth", fontsize=7)


def geometry_table(results: Results) -> Table:
    """Return depth and surface errors beside PSNR, a grid a set; where nothing was measured a grid that says why."""
    nothing: dict[str, Any] = {"reason": "predicts no depth"}
    known = [(item, item.summary.get("geometry") or nothing) for item in results.evaluations]
    reasons = tuple(f"{item.name}: {geometry['reason']}." for item, geometry in known if geometry["reason"])
    measured = [(item, group) for item, geometry in known for group in geometry.get("groups", [])]
    sets = grouped(sorted(measured, key=lambda pair: set_order(pair[1]["set"])), lambda pair: pair[1]["set"])
    grids = [_grid(name, own, reasons) for name, own in sets.items()]
    grids = grids or [Grid("Geometry", ("Method",), tuple(COLUMNS.values()), (), reasons)]
    records = [
        [item.model, item.resolution, group["set"], group["split"], name, *map(one.get, Score._fields), group["count"]]
        for item, group in measured
        for name in COLUMNS
        if (one := group.get(name))
    ]
    return Table(tuple(grids), HEADER, records)


def _grid(name: str, measured: Sequence[Measured], reasons: tuple[str, ...]) -> Grid:
    rows = []
    splits = grouped(sorted(measured, key=lambda pair: split_order(pair[1]["split"])), lambda pair: pair[1]["split"])
    for block, own in enumerate(splits.values()):
        rows += [_row(item, group, block, [other for _, other in own]) for item, group in own]
        firsts = {item.resolution: (item, group) for item, group in reversed(own)}
        others = [item for item, _ in own if firsts[item.resolution][0] is not item]
        rows += [_difference(item, *firsts[item.resolution], block) for item in others]
    quality = f"SSIM / {perceptual([item for item, _ in measured])} / sharpness"
    notes = (
        f"PSNR / {quality} of the split's target views; the other columns are of its context views. "
        "Small print: 95 % bootstrap interval over scenes; bold: best of a split. Differences are of the same images."
        " Geometry is paired view by view.",
        *(f"{COLUMNS[key][:-2]}: {text}." for key, text in measured[0][0].summary["geometry"]["measures"].items()),
        *reasons,
    )
    columns = (f"PSNR [dB] / {quality}", *COLUMNS.values())
    return Grid(f"Geometry, {title_of(name)}", ("Split", "Method", "Size"), columns, tuple(rows), notes)


def _row(item: Evaluation, group: dict[str, Any], block: int, rivals: Sequence[dict[str, Any]]) -> Row:
    cells = [score_cell(item.scores(group["set"], group["split"]))]
    for name in COLUMNS:
        score, means = Score.of(group.get(name)), [other[name]["mean"] for other in rivals if other.get(name)]
        best = len(means) > 1 and score.mean == (min if name in LOWER_IS_BETTER else max)(means)
        found = Cell(f"{score.mean:.3f}", f" [{score.low:.3f}, {score.high:.3f}]", best)
        cells.append(found if score.known else Cell(NONE))
    return Row((spaced(group["split"]), label(item.model), f"{item.resolution} px"), tuple(cells), block=block)


def _difference(item: Evaluation, first: Evaluation, group: dict[str, Any], block: int) -> Row:
    cells = {name: Cell(NONE) for name in ("psnr", *COLUMNS)}
    for name, score in differences(item, first, group).items():
        digits = 2 if name == "psnr" else 3
        text, low, high = (f"{value:+.{digits}f}".replace("-", "−") for value in score)
        gain = Score(-score.mean, -score.high, -score.low) if name in LOWER_IS_BETTER else score
        cells[name] = Cell(text, f" [{low}, {high}]", tone=verdict(gain))
    head = (spaced(group["split"]), f"{label(item.model)} − {label(first.model)}", f"{item.resolution} px")
    return Row(head, tuple(cells[name] for name in ("psnr", *COLUMNS)), "baseline", block)


def differences(one: Evaluation, other: Evaluation, group: Mapping[str, Any]) -> dict[str, Score]:
    """Return one minus other for every measure both have, on the same images of the group's set and split.

    The interval resamples scenes as the evaluation did."""
    resampling, place = one.summary["bootstrap"], (group["set"], group["split"])
    ours, theirs, found = _values(one, place), _values(other, place), {}
    for name in ours.keys() & theirs.keys():
        gaps = {key: value - theirs[name][key] for key, value in ours[name].items() if key in theirs[name]}
        if gaps:
            scenes = [key[0] for key in gaps]
            found[name] = Score.over([*gaps.values()], scenes, resampling["resamples"], resampling["seed"])
    return found


def _values(item: Evaluation, place: Place) -> dict[str, dict[tuple[Any, ...], float]]:
    """Return every metric by scene, entry and frame, and every geometric measure by scene and entry."""
    images, path = item.rows.get(place, {}), item.folder / "geometry.json"
    rows = [row for row in read_json(path) if (row["set"], row["split"]) == place] if path.is_file() else []
    measures = [key for key in (rows[0] if rows else {}) if key not in ("scene", "set", "split", "entry")]
    return {
        metric: {target: value for target, row in images.items() if (value := getattr(row, metric)) is not None}
        for metric in METRICS
    } | {key: {(row["scene"], row["entry"]): row[key] for row in rows} for key in measures}
