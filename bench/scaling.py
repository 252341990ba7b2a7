"""Points and slopes of a finished study `scaling`, kept: `python bench/scaling.py results/demo/scaling`."""

import csv
import sys
from pathlib import Path

from common import append

SPLIT = "full"


def main(results: Path) -> None:
    """Append the rows of the study's table that the figure shows, those of split `full`."""
    with open(results / "tables" / "scaling_table.csv", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == SPLIT]
    if not rows:
        raise SystemExit(f"{results}: its table has no rows of split {SPLIT}; finish the study there first")
    append("scaling", [{"study": str(Path(*results.parts[-2:])), **row} for row in rows])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
