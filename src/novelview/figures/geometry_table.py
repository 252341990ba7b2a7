"""Table `geometry_table`: depth and surface errors of every run that predicts Gaussians, beside its PSNR."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from novelview.config.schema import Study
from novelview.figures.paired import differences
from novelview.figures.results import METRICS, Evaluation, Score, read_evaluations, set_order
from novelview.figures.results_table import NONE, number
from novelview.figures.style import label, split_order, title_of
from novelview.figures.tables import Cell, Row, Table, to_csv, write_tables

COLUMNS = {
    "abs_rel": "Abs rel ↓",
    "delta1": "δ < 1.25 ↑",
    "accuracy": "Accuracy [m] ↓",
    "completeness": "Completeness [m] ↓",
    "chamfer": "Chamfer [m] ↓",
}
LOWER_IS_BETTER = {"abs_rel", "accuracy", "completeness", "chamfer"}
CSV_HEADER = ["model", "resolution", "set", "split", "measure", "mean", "low", "high", "count"]


def geometry_table(folders: list[Path], stem: Path, study: Study) -> list[Path]:
    """Write the geometry of every run to `stem`.md, .tex and .csv, with a reason where it could not be measured."""
    evaluations = read_evaluations(folders, "geometry_table")
    tables = geometry_tables(evaluations)
    return write_tables(stem, study.title or study.name, tables, to_csv(CSV_HEADER, _records(evaluations)))


def geometry_tables(evaluations: Sequence[Evaluation]) -> list[Table]:
    """Return a table a set; one without rows, that says why, where nothing was measured."""
    groups = [(item, group) for item in evaluations for group in groups_of(item)]
    sets = sorted({group["set"] for _, group in groups}, key=set_order)
    tables = [_table(name, [pair for pair in groups if pair[1]["set"] == name], evaluations) for name in sets]
    return tables or [Table("Geometry", ("Method",), tuple(COLUMNS.values()), (), _reasons(evaluations))]


def groups_of(item: Evaluation) -> list[dict[str, Any]]:
    """Return the measured groups of an evaluation."""
    return (item.summary.get("geometry") or {}).get("groups", [])


def _reasons(evaluations: Sequence[Evaluation]) -> tuple[str, ...]:
    found = []
    for item in evaluations:
        geometry = item.summary.get("geometry")
        reason = geometry["reason"] if geometry else "predicts no depth"
        found += [f"{label(item.model)}, {item.resolution} px: {reason}."] if reason else []
    return tuple(found)


def _table(name: str, pairs: Sequence[tuple[Evaluation, dict[str, Any]]], evaluations: Sequence[Evaluation]) -> Table:
    splits = sorted({group["split"] for _, group in pairs}, key=split_order)
    rows = []
    for block, split in enumerate(splits):
        own = [pair for pair in pairs if pair[1]["split"] == split]
        rows += [_row(item, group, block, [other for _, other in own]) for item, group in own]
        firsts = {item.resolution: (item, group) for item, group in reversed(own)}
        rows += [
            _difference(item, firsts[item.resolution], block)
            for item, _ in own
            if firsts[item.resolution][0] is not item
        ]
    measures = next(item.summary["geometry"]["measures"] for item, _ in pairs)
    notes = (
        "PSNR / SSIM / LPIPS / sharpness of the split's target views; the other columns are of its context views. "
        "Small print: 95 % bootstrap interval over scenes; bold: best of a split. Differences are of the same images."
        " Geometry is paired view by view.",
        *(f"{COLUMNS[key][:-2]}: {text}." for key, text in measures.items()),
        *_reasons(evaluations),
    )
    columns = ("PSNR [dB] / SSIM / LPIPS / sharpness", *COLUMNS.values())
    return Table(f"Geometry, {title_of(name)}", ("Split", "Method", "Size"), columns, tuple(rows), notes)


def _row(item: Evaluation, group: dict[str, Any], block: int, rivals: Sequence[dict[str, Any]]) -> Row:
    scores = item.group(item.model, group["set"], group["split"])
    texts = [number(scores.scores[metric], metric) for metric in METRICS] if scores else [NONE]
    cells = [Cell(texts[0], "".join(f" / {text}" for text in texts[1:]))]
    cells += [_cell(name, group, rivals) for name in COLUMNS]
    return Row(
        (group["split"].replace("_", " "), label(item.model), f"{item.resolution} px"), tuple(cells), block=block
    )


def _difference(item: Evaluation, first: tuple[Evaluation, dict[str, Any]], block: int) -> Row:
    """Return the row of what a run changes against the first of its split, pair by pair."""
    other, group = first
    found = differences(item, other, group)
    cells = [_signed(name, found.get(name)) for name in ("psnr", *COLUMNS)]
    head = (group["split"].replace("_", " "), f"{label(item.model)} − {label(other.model)}", f"{item.resolution} px")
    return Row(head, tuple(cells), "baseline", block)


def _signed(name: str, score: Score | None) -> Cell:
    if score is None:
        return Cell(NONE)
    digits = 2 if name == "psnr" else 3
    text, low, high = (f"{value:+.{digits}f}".replace("-", "−") for value in (score.mean, score.low, score.high))
    better = -1 if name in LOWER_IS_BETTER else 1
    clear = score.low > 0 or score.high < 0
    return Cell(text, f" [{low}, {high}]", tone=("win" if better * score.mean > 0 else "loss") if clear else "tie")


def _cell(name: str, group: dict[str, Any], rivals: Sequence[dict[str, Any]]) -> Cell:
    score = Score.of(group.get(name))
    if not score.known:
        return Cell(NONE)
    means = [other[name]["mean"] for other in rivals if other.get(name)]
    best = min(means) if name in LOWER_IS_BETTER else max(means)
    detail = f" [{score.low:.3f}, {score.high:.3f}]"
    return Cell(f"{score.mean:.3f}", detail, best=len(means) > 1 and score.mean == best)


def _records(evaluations: Sequence[Evaluation]) -> list[list[object]]:
    return [
        [
            *(item.model, item.resolution, group["set"], group["split"], name),
            *(group[name]["mean"], group[name]["low"], group[name]["high"], group["count"]),
        ]
        for item in evaluations
        for group in groups_of(item)
        for name in COLUMNS
        if group.get(name)
    ]
