"""One row a scored image, and the CSV file that holds them."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from novelview.errors import DataError
from novelview.files import write_text


@dataclass(frozen=True, slots=True)
class Row:
    """Scores of one image: `model` is a model's name, a baseline's, or `<model>_swapped_pose`.

    entry: number of the entry in the split's index, nulls not counted; frame: number of the target frame in its scene.
    lpips is None where the metric could not be computed. sharpness: novelview.evaluation.sharpness, 1 for the truth's.
    """

    model: str
    scene: str
    set: str
    split: str
    entry: int
    frame: int
    psnr: float
    ssim: float
    lpips: float | None
    sharpness: float


COLUMNS = tuple(field.name for field in fields(Row))


def in_order(rows: Iterable[Row], splits: Sequence[str]) -> list[Row]:
    """Sort rows by split (in the order of `splits`), entry, place of the target in it, and model."""
    rank = {split: place for place, split in enumerate(splits)}
    return sorted(rows, key=lambda row: (rank[row.split], row.entry, row.frame, row.model))


def write_rows(path: Path | str, rows: Iterable[Row]) -> None:
    """Write rows as CSV, atomically; an absent LPIPS is an empty cell."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([_cell(value) for value in astuple(row)] for row in rows)
    write_text(path, text.getvalue())


def _cell(value: str | int | float | None) -> str:
    if value is None:
        return ""
    return f"{value:.6f}" if isinstance(value, float) else str(value)


def read_rows(path: Path | str) -> list[Row]:
    """Read a file made by `write_rows`; raises DataError when it is missing or not such a file."""
    try:
        with open(path, newline="") as stream:
            records = list(csv.DictReader(stream))
        return [_row(record) for record in records]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; run the evaluate stage first") from None
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path}: not a table of scores ({error}); run the evaluate stage again") from None


def _row(record: dict[str, str]) -> Row:
    return Row(
        model=record["model"],
        scene=record["scene"],
        set=record["set"],
        split=record["split"],
        entry=int(record["entry"]),
        frame=int(record["frame"]),
        psnr=float(record["psnr"]),
        ssim=float(record["ssim"]),
        lpips=float(record["lpips"]) if record["lpips"] else None,
        sharpness=float(record["sharpness"]),
    )
