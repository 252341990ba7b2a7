"""Table `scaling_table`: PSNR on every training subset, the fitted slope with its interval, and published slopes."""

from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

from novelview.config.schema import Study
from novelview.evaluation.published import PublishedRow, published
from novelview.figures.orderings import orderings
from novelview.figures.results import Evaluation, read_evaluations
from novelview.figures.results_table import NONE
from novelview.figures.scaling import main_split
from novelview.figures.slopes import Line, lines
from novelview.figures.statements import plain_difference
from novelview.figures.style import label, title_of
from novelview.figures.tables import Cell, Row, Table, to_csv, write_tables

CSV_HEADER = ["model", "resolution", "set", "split", "subset", "scenes", "psnr", "low", "high"]
CSV_HEADER += ["slope", "slope_low", "slope_high"]


def scaling_table(folders: list[Path], stem: Path, study: Study) -> list[Path]:
    """Write the scaling table to `stem`.md and .tex, every split at full precision to .csv.

    Raises DataError when no model was trained on two subsets or more.
    """
    evaluations = read_evaluations(folders, "scaling_table", subsets=True)
    table = scaling_rows(evaluations, study)
    return write_tables(stem, study.title or study.name, [table], to_csv(CSV_HEADER, _records(lines(evaluations))))


def scaling_rows(evaluations: Sequence[Evaluation], study: Study) -> Table:
    """Return PSNR by number of training scenes and the slope, a row a model, resolution and set; published below."""
    found = main_split(lines(evaluations))
    scenes = sorted({count for line in found for count in line.scenes})
    rows = [_our_row(line, scenes) for line in found]
    for one in _gains(study):
        where = f"published: {one.dataset}, {one.resolution} px ({one.grade} source)"
        cells = (*(Cell(NONE) for _ in scenes), Cell(f"{one.psnr_gain_per_4x:+.2f}"))
        rows.append(Row((one.method, where), cells, "published", 1))
    splits = ", ".join(dict.fromkeys(line.split for line in found))
    notes = (
        f"Cells: mean PSNR [dB] on split {splits}; columns: number of training scenes.",
        "Slope: dB per four times the scenes, least squares on the logarithm, with a 95 % bootstrap interval over test "
        "scenes; how much another training seed would change it is not in the interval.",
        "Published slopes are means of the gains from subset to subset, on other data and at other sizes than here.",
        *orderings(found, _gains(study)),
    )
    columns = (*(f"{count:,}" for count in scenes), "slope")
    return Table("Scaling", ("Method", "Measured on"), columns, tuple(rows), notes)


def slopes_in_words(evaluations: Sequence[Evaluation], study: Study) -> list[str]:
    """Return the paragraphs that compare the order of our slopes with the published one."""
    return orderings(main_split(lines(evaluations)), _gains(study))


def _gains(study: Study) -> list[PublishedRow]:
    return published(study.published, "scaling_gain") if study.published else []


def _our_row(line: Line, scenes: Sequence[int]) -> Row:
    psnr = dict(zip(line.scenes, line.scores, strict=True))
    cells = [Cell(f"{psnr[count].mean:.2f}") if count in psnr else Cell(NONE) for count in scenes]
    mean, bracket, rest = plain_difference(line.slope).partition(" [")
    where = f"ours: {title_of(line.set)}, {line.resolution} px"
    return Row((label(line.model), where), (*cells, Cell(mean, f"{bracket}{rest}")))


def _records(found: Sequence[Line]) -> list[list[object]]:
    return [
        [line.model, line.resolution, line.set, line.split, subset, scenes, *astuple(score), *astuple(line.slope)]
        for line in found
        for subset, scenes, score in zip(line.subsets, line.scenes, line.scores, strict=True)
    ]
