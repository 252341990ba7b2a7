"""Table `depth_table`: depth, parameters and scores of every run, and the published depth ablation."""

from collections.abc import Sequence
from pathlib import Path

from novelview.config.schema import Study
from novelview.evaluation.published import published
from novelview.figures.depth import SPLIT, Point, points, size_of
from novelview.figures.results import METRICS, Evaluation, read_evaluations, sections
from novelview.figures.results_table import NONE, number
from novelview.figures.style import label, title_of
from novelview.figures.tables import Cell, Row, Table, to_csv, write_tables

CSV_HEADER = ["model", "architecture", "layers", "parameters", "updates", "resolution", "set", "split"]
CSV_HEADER += ["psnr", "low", "high"]


def depth_table(folders: list[Path], stem: Path, study: Study) -> list[Path]:
    """Write depth, parameters and scores of every run, the published rows below, to `stem`.md, .tex and .csv."""
    evaluations = read_evaluations(folders, "depth_table")
    table = depth_rows(evaluations, study)
    return write_tables(stem, study.title or study.name, [table], to_csv(CSV_HEADER, _records(points(evaluations))))


def depth_rows(evaluations: Sequence[Evaluation], study: Study) -> Table:
    """Return the table of depths: a column a set, then the published rows in a column of their own."""
    found = points(evaluations)
    sets = [name for name, splits in sections(list(evaluations)) if SPLIT in splits]
    rows = [_our_row(point, sets) for point in found]
    for one in published(study.published, "depth") if study.published else ():
        scores = Cell(f"{one.psnr:.2f}", f" / {one.ssim} / {one.lpips}")
        head = (one.method, str(one.layers), NONE, NONE, f"{one.resolution} px")
        rows.append(Row(head, (*(Cell(NONE) for _ in sets), scores), "published", 1))
    notes = (
        f"Cells: PSNR [dB] / SSIM / LPIPS / sharpness on split {SPLIT}, means over target images.",
        "Published rows are without the last. Layers: of all stacks together.",
        "Rows of other updates were trained by another recipe: compare within one.",
    )
    columns = (*(title_of(name) for name in sets), "published")
    return Table("Depth", ("Method", "Layers", "Parameters", "Updates", "Size"), columns, tuple(rows), notes)


def _our_row(point: Point, sets: Sequence[str]) -> Row:
    item = point.evaluation
    cells = []
    for name in sets:
        group = item.group(item.model, name, SPLIT)
        texts = [number(group.scores[metric], metric) for metric in METRICS] if group else [NONE]
        cells.append(Cell(texts[0], "".join(f" / {text}" for text in texts[1:])))
    parameters = f"{item.summary['parameters']:,}"
    head = (label(item.model), str(point.layers), parameters, str(point.steps), size_of(point))
    return Row(head, (*cells, Cell(NONE)))


def _records(found: Sequence[Point]) -> list[list[object]]:
    return [
        [
            *(point.evaluation.model, point.architecture, point.layers, point.evaluation.summary["parameters"]),
            *(point.steps, point.evaluation.resolution, group.set, group.split),
            *(group.scores["psnr"].mean, group.scores["psnr"].low, group.scores["psnr"].high),
        ]
        for point in found
        for group in point.evaluation.groups
        if group.model == point.evaluation.model
    ]
