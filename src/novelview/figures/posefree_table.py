"""Table `posefree_table`: scores by overlap class on given and estimated cameras, what these cost, their quality."""

import math
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

from novelview.config.schema import Study
from novelview.figures.posefree_rows import (
    GIVEN,
    NAMES,
    Judgement,
    absent,
    common,
    difference,
    given_of,
    judgements,
    score,
)
from novelview.figures.posefree_rows import places as places_of
from novelview.figures.results import METRICS, Score
from novelview.figures.results_table import NONE, number, split_names
from novelview.figures.statements import plain_difference, verdict
from novelview.figures.style import label, title_of
from novelview.figures.tables import Cell, Row, Table, to_csv, write_tables

CSV_HEADER = ["model", "resolution", "cameras", "set", "split", "targets", "metric", "mean", "low", "high"]
QUALITY = {
    "rotation_deg": "rotation [°]",
    "relative_rotation_deg": "relative rotation [°]",
    "translation_over_spread": "translation / spread",
    "reprojection_px": "reprojection [px]",
}


def posefree_table(folders: list[Path], stem: Path, study: Study, scale: str) -> list[Path]:
    """Write the tables to `stem`.md and .tex, every score to .csv; raises DataError when nothing was evaluated."""
    found = judgements(folders)
    tables = tables_of(found, study, scale)
    return write_tables(stem, study.title or study.name, tables, to_csv(CSV_HEADER, records(found)))


def posefree_tables(folders: list[Path], study: Study, scale: str) -> list[Table]:
    """Return the tables for the report."""
    return tables_of(judgements(folders), study, scale)


def tables_of(found: Sequence[Judgement], study: Study, scale: str) -> list[Table]:
    """Return, for each set, scores on the same targets and what estimated cameras cost; then the cameras themselves."""
    missing = absent(found, study, scale)
    tables = []
    for name, splits in places_of(found):
        tables.append(_scores(found, name, splits, missing))
        if any(one.evaluation.cameras != GIVEN for one in found):
            tables.append(_costs(found, name, splits))
    return [*tables, _cameras(found, missing)]


def _scores(found: Sequence[Judgement], name: str, splits: list[str], missing: dict[str, str]) -> Table:
    shared = {split: common(found, (name, split)) for split in splits}
    means = {split: _best(found, (name, split), shared[split]) for split in splits}
    rows = [
        Row(_head(one), tuple(_cell(one, name, split, shared[split], means[split]) for split in splits))
        for one in found
    ]
    posed = {label(one.evaluation.model): f"{one.evaluation.resolution} px" for one in found if one.posed}
    for estimator in missing:
        cells = tuple(Cell("n/a") for _ in splits)
        rows += [Row((model, size, NAMES.get(estimator, estimator)), cells) for model, size in posed.items()]
    counts = ", ".join(f"{split.replace('_', ' ')} {len(shared[split])}" for split in splits)
    notes = (
        "Cells: PSNR [dB] / SSIM / LPIPS / sharpness, means over targets every estimator placed; bold: highest PSNR.",
        f"Target images: {counts}. Models at different image sizes are not comparable in level.",
        *(f"{NAMES.get(estimator, estimator)}: n/a, {reason}." for estimator, reason in missing.items()),
    )
    return Table(
        f"Given and estimated cameras, {title_of(name)}",
        ("Method", "Size", "Cameras"),
        split_names(splits),
        tuple(rows),
        notes,
    )


def _best(found: Sequence[Judgement], place: tuple[str, str], targets: Sequence[Any]) -> float:
    means = [score(one, place, targets).mean for one in found if targets]
    return max((mean for mean in means if not math.isnan(mean)), default=math.nan)


def _head(one: Judgement) -> tuple[str, str, str]:
    item = one.evaluation
    return label(item.model), f"{item.resolution} px", NAMES.get(item.cameras, item.cameras) if one.posed else "none"


def _cell(one: Judgement, name: str, split: str, targets: Sequence[Any], best: float) -> Cell:
    if not targets or not one.rows.get((name, split)):
        return Cell(NONE)
    values = {metric: score(one, (name, split), targets, metric) for metric in METRICS}
    psnr, *rest = (number(value, metric) for metric, value in values.items())
    return Cell(psnr, "".join(f" / {text}" for text in rest), best=values["psnr"].mean == best)


def _costs(found: Sequence[Judgement], name: str, splits: list[str]) -> Table:
    """Return paired differences: estimated against given cameras, and against each model that takes none."""
    rows = []
    free = [one for one in found if not one.posed]
    for one in (item for item in found if item.posed and item.evaluation.cameras != GIVEN):
        against = [(given_of(found, one), "given cameras"), *((other, label(other.evaluation.model)) for other in free)]
        for other, words in against:
            cells = tuple(_difference(difference(one, other, (name, split))[0]) for split in splits)
            rows.append(Row((*_head(one), words), cells))
    note = "Cells: mean PSNR difference [dB] over the targets both have, 95 % bootstrap interval over scenes."
    head = ("Method", "Size", "Cameras", "Against")
    return Table(f"What estimated cameras cost, {title_of(name)}", head, split_names(splits), tuple(rows), (note,))


def _difference(found: Score) -> Cell:
    if not found.known:
        return Cell(NONE)
    mean, bracket, bounds = plain_difference(found).partition(" [")
    return Cell(mean, f"{bracket}{bounds}", tone=verdict(found))


def _cameras(found: Sequence[Judgement], missing: dict[str, str]) -> Table:
    """Return how many scenes, frames and entries each estimator placed, and how far from the given cameras."""
    known = {
        one.evaluation.cameras: one.evaluation.summary["cameras"] for one in found if one.evaluation.cameras != GIVEN
    }
    splits = list(dict.fromkeys(split for content in known.values() for split in content["entries"]))
    rows = [Row((NAMES.get(name, name),), _quality(content, splits)) for name, content in known.items()]
    columns = ("scenes", "frames", *split_names(splits), *QUALITY.values())
    rows += [Row((NAMES.get(name, name),), tuple(Cell("n/a") for _ in columns)) for name in missing]
    notes = (
        "Scenes, frames and entries of each split: placed of asked. An entry counts when all of its frames are placed.",
        "Rotation and translation: mean over placed frames after Sim(3) to the given cameras, orientations counting as "
        "much as centres; relative rotation: to the scene's first placed frame, which needs no alignment.",
        *(f"{NAMES.get(name, name)}: n/a, {reason}." for name, reason in missing.items()),
    )
    return Table("The estimated cameras", ("Estimator",), columns, tuple(rows), notes)


def _quality(content: dict[str, Any], splits: list[str]) -> tuple[Cell, ...]:
    counts, entries = content["summary"], content["entries"]
    placed = [(counts["placed_scenes"], counts["scenes"]), (counts["placed_frames"], counts["asked_frames"])]
    none = {"kept": 0, "index": 0}
    placed += [(entries.get(split, none)["kept"], entries.get(split, none)["index"]) for split in splits]
    values = [counts.get(key) for key in QUALITY]
    errors = [Cell(NONE if value is None else f"{value:.3g}") for value in values]
    return (*(Cell(f"{own} of {all_}") for own, all_ in placed), *errors)


def records(found: Sequence[Judgement]) -> list[list[object]]:
    """Return every score on the targets all estimators placed, in the columns of `CSV_HEADER`."""
    lines: list[list[object]] = []
    for name, splits in places_of(found):
        for split in splits:
            targets = common(found, (name, split))
            for one in found if targets else ():
                item = one.evaluation
                head = [item.model, item.resolution, item.cameras, name, split, len(targets)]
                values = {metric: score(one, (name, split), targets, metric) for metric in METRICS}
                lines += [[*head, metric, *astuple(value)] for metric, value in values.items() if value.known]
    return lines
