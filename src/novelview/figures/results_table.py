"""Table `results_table`: scores of models and baselines, paired differences, and the published numbers beside ours."""

import math
from collections.abc import Sequence
from pathlib import Path

from novelview.config.schema import Resolution, Study
from novelview.errors import DataError
from novelview.figures.comparison import Reference, protocol_notes, references
from novelview.figures.results import METRICS, Evaluation, Group, Score, read_evaluations, sections
from novelview.figures.statements import plain_difference, verdict
from novelview.figures.style import BASELINES, label, title_of
from novelview.figures.tables import Cell, Row, Table, to_csv, write_tables

MISSING = "n/a (weights not downloaded)"
NONE = "–"
SHARPNESS = "Sharpness: 1 as sharp as the truth, towards 0 blurred; noise lowers it (novelview.evaluation.sharpness)."
GIVEN = {"context_poses": "context poses", "target_poses": "target pose", "target_images": "target image"}
CSV_HEADER = ["table", "model", "resolution", "set", "split", "metric", "mean", "low", "high", "count", "baseline"]


def results_table(folders: list[Path], stem: Path, study: Study) -> list[Path]:
    """Write the main results to `stem`.md, .tex and .csv; raises DataError when nothing was evaluated."""
    evaluations = read_evaluations(folders, "results_table")
    tables = results_tables(evaluations, study)
    return write_tables(stem, study.title or study.name, tables, to_csv(CSV_HEADER, records(evaluations)))


def results_tables(evaluations: list[Evaluation], study: Study) -> list[Table]:
    """Return the tables of a study: scores and paired differences for each set, then the published comparison."""
    found = []
    for name, splits in sections(evaluations):
        found += [score_table(evaluations, name, splits), margin_table(evaluations, name, splits)]
    if not found:
        raise DataError(f"{evaluations[0].folder}: no split was evaluated; run the evaluation again")
    return [*found, published_table(evaluations, study)]


def given(evaluation: Evaluation) -> str:
    """Return what the model is given beside the context images, in words."""
    flags = evaluation.summary.get("given", {})
    words = [word for key, word in GIVEN.items() if flags.get(key)]
    return ", ".join(words) or "nothing"


def score_table(evaluations: list[Evaluation], set_name: str, splits: Sequence[str]) -> Table:
    """Return the scores of every model and baseline on one set, a block a resolution, best PSNR marked."""
    sizes = sorted({item.resolution for item in evaluations})
    rows = [row for block, size in enumerate(sizes) for row in _score_rows(evaluations, size, block, set_name, splits)]
    notes = (
        "Cells: PSNR [dB] / SSIM / LPIPS / sharpness, means over target images; bold: highest PSNR at a size.",
        SHARPNESS,
        "Also given: what the model takes beside the context images to render a target.",
        *_counts(evaluations, set_name, splits),
        *_lpips_note(evaluations),
    )
    head = ("Method", "Size", "Also given")
    return Table(f"Scores, {title_of(set_name)}", head, split_names(splits), tuple(rows), notes)


def _score_rows(
    evaluations: list[Evaluation], size: Resolution, block: int, set_name: str, splits: Sequence[str]
) -> list[Row]:
    own = [item for item in evaluations if item.resolution == size]
    lines = [*((item, item.model) for item in own), *((own[0], name) for name in BASELINES)]
    best = [max(_psnr(item, model, set_name, split) for item, model in lines) for split in splits]
    rows = []
    for item, model in lines:
        groups = [item.group(model, set_name, split) for split in splits]
        cells = tuple(_score_cell(group, highest) for group, highest in zip(groups, best, strict=True))
        kind = "baseline" if model in BASELINES else "model"
        rows.append(Row((label(model), f"{size} px", given(item) if kind == "model" else NONE), cells, kind, block))
    return rows


def split_names(splits: Sequence[str]) -> tuple[str, ...]:
    """Return splits as column heads have them."""
    return tuple(split.replace("_", " ") for split in splits)


def margin_table(evaluations: list[Evaluation], set_name: str, splits: Sequence[str]) -> Table:
    """Return each model's paired PSNR difference against the best trivial baseline of the column, with intervals."""
    rows = []
    for item in evaluations:
        cells = tuple(_margin_cell(item, set_name, split) for split in splits)
        rows.append(Row((label(item.model), f"{item.resolution} px"), cells))
    note = (
        f"Cells: mean PSNR difference [dB] over the same target images, 95 % bootstrap interval over "
        f"{resampled(evaluations)}, and the baseline it is against "
        f"(N nearest context view, M mean of the context views, C mean colour)."
    )
    title = f"Difference against the best trivial baseline, {title_of(set_name)}"
    return Table(title, ("Method", "Size"), split_names(splits), tuple(rows), (note,))


def resampled(evaluations: list[Evaluation]) -> str:
    """Return what the bootstrap resampled: scenes, or images where there is a single scene."""
    kinds = {row.get("resampled", "scenes") for item in evaluations for row in item.summary["groups"]}
    return "scenes" if kinds <= {"scenes"} else "images (of a single scene: it says nothing about other scenes)"


def _psnr(evaluation: Evaluation, model: str, set_name: str, split: str) -> float:
    group = evaluation.group(model, set_name, split)
    return group.scores["psnr"].mean if group else -math.inf


def _score_cell(group: Group | None, best: float) -> Cell:
    if group is None:
        return Cell(NONE)
    psnr, *rest = (number(group.scores[metric], metric) for metric in METRICS)
    return Cell(psnr, "".join(f" / {text}" for text in rest), best=group.scores["psnr"].mean == best)


def number(score: Score, metric: str) -> str:
    """Return a mean as printed: PSNR with two decimals, the others with three."""
    return "n/a" if not score.known else f"{score.mean:.{2 if metric == 'psnr' else 3}f}"


def _margin_cell(evaluation: Evaluation, set_name: str, split: str) -> Cell:
    margin = evaluation.margin(set_name, split)
    if margin is None:
        return Cell(NONE)
    letter = {"nearest_context": "N", "mean_context": "M", "mean_colour": "C"}[margin.baseline]
    mean, bracket, bounds = plain_difference(margin.score).partition(" [")
    return Cell(mean, f"{bracket}{bounds} {letter}", tone=verdict(margin.score))


def _counts(evaluations: list[Evaluation], set_name: str, splits: Sequence[str]) -> tuple[str, ...]:
    counts = {}
    for evaluation in evaluations:
        groups = ((split, evaluation.group(evaluation.model, set_name, split)) for split in splits)
        counts |= {split: group.count for split, group in groups if group}
    listed = ", ".join(f"{split.replace('_', ' ')} {counts[split]}" for split in splits if split in counts)
    return (f"Target images: {listed}.",)


def _lpips_note(evaluations: list[Evaluation]) -> tuple[str, ...]:
    absent = any(not group.scores["lpips"].known for item in evaluations for group in item.groups)
    return (f"LPIPS: {MISSING}.",) if absent else ()


def published_table(evaluations: list[Evaluation], study: Study) -> Table:
    """Return ours beside the published rows of the same models, or a table that says there are none."""
    models = dict.fromkeys(item.model for item in evaluations)
    found = {model: references(study, model) for model in models}
    columns = tuple(dict.fromkeys(split for own in found.values() for one in own for split in one.scores))
    rows: list[Row] = []
    for block, model in enumerate(name for name in models if found[name]):
        own = [item for item in evaluations if item.model == model]
        rows += [_our_row(item, name, columns, block) for item in own for name, _ in sections([item])]
        rows += [_published_row(reference, columns, block) for reference in found[model]]
    notes = protocol_notes(study, evaluations) + (_lpips_note(evaluations) if rows else ())
    return Table("Beside the published numbers", ("Method", "Measured on"), columns, tuple(rows), notes)


def _our_row(evaluation: Evaluation, set_name: str, columns: Sequence[str], block: int) -> Row:
    groups = [evaluation.group(evaluation.model, set_name, split) for split in columns]
    where = f"ours: {evaluation.dataset}, {title_of(set_name)}, {evaluation.resolution} px"
    return Row((label(evaluation.model), where), tuple(_score_cell(group, math.inf) for group in groups), block=block)


def _published_row(reference: Reference, columns: Sequence[str], block: int) -> Row:
    scores = [reference.scores.get(split) for split in columns]
    cells = tuple(Cell(one[0], f" / {one[1]} / {one[2]}") if one else Cell(NONE) for one in scores)
    return Row((reference.method, f"published: {reference.source}"), cells, "published", block)


def records(evaluations: list[Evaluation]) -> list[list[object]]:
    """Return every score and paired difference at full precision, one line each; empty where not computed."""
    lines: list[list[object]] = []
    for item in evaluations:
        for group in item.groups:
            place = [group.model, item.resolution, group.set, group.split]
            for metric, score in group.scores.items():
                lines.append(["scores", *place, metric, *_values(score), group.count, ""])
        for margin in item.margins:
            place = [margin.model, item.resolution, margin.set, margin.split, "psnr"]
            lines.append(["differences", *place, *_values(margin.score), "", margin.baseline])
    return lines


def _values(score: Score) -> list[object]:
    return ["" if math.isnan(value) else value for value in (score.mean, score.low, score.high)]
