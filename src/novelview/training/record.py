"""The training log: one row for every so many steps, kept in the checkpoint and mirrored to a CSV file."""

import math
import time
from pathlib import Path
from typing import Any

from novelview.files import write_text

COLUMNS = ("step", "loss", "mse", "psnr", "lr", "grad_norm", "skipped", "seconds")
MEANS = ("loss", "mse", "psnr", "grad_norm")
FLUSH_SECONDS = 5.0  # the CSV is rewritten whole, so not at every row


class Record:
    """Rows of the log. A row holds means over the steps since the row before, how many of them skipped the update, the
    learning rate of its last step, and the seconds trained since the beginning.

    further: columns of this run's own, means as well, put before lr. Its state travels in the checkpoint, so a resumed
    run neither repeats nor misses rows, whatever became of the file.
    """

    def __init__(self, path: Path | str, every: int, last: int, further: tuple[str, ...] = ()) -> None:
        self.means = (*MEANS, *further)
        self.columns = (*COLUMNS[:4], *further, *COLUMNS[4:])
        self.path, self.every, self.last = Path(path), every, last
        self.rows: list[dict[str, float]] = []
        self.window: list[dict[str, float]] = []
        self.before = 0.0
        self.started = self.flushed = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds trained so far, interruptions not counted."""
        return self.before + time.monotonic() - self.started

    def add(self, step: int, values: dict[str, float]) -> dict[str, float] | None:
        """Take in one step (keys `MEANS`, lr, skipped); return the row when one is due, else None."""
        self.window.append(values)
        if step % self.every and step != self.last:
            return None
        row = {"step": float(step), **{key: _mean([entry[key] for entry in self.window]) for key in self.means}}
        row["lr"] = values["lr"]
        row["skipped"] = sum(entry["skipped"] for entry in self.window)
        row["seconds"] = self.seconds
        self.rows.append(row)
        self.window = []
        return row

    def write_if_due(self) -> None:
        """Write the CSV file unless that was done a moment ago."""
        if time.monotonic() - self.flushed >= FLUSH_SECONDS:
            self.write()

    def write(self) -> None:
        """Write the CSV file atomically."""
        lines = [",".join(_cell(key, row[key]) for key in self.columns) for row in self.rows]
        write_text(self.path, "\n".join([",".join(self.columns), *lines]) + "\n")
        self.flushed = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """Rows, the unfinished window and the seconds so far."""
        return {"rows": self.rows, "window": self.window, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.rows, self.window, self.before = list(state["rows"]), list(state["window"]), state["seconds"]
        self.started = time.monotonic()


def _mean(values: list[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def _cell(key: str, value: float) -> str:
    if key in ("step", "skipped"):
        return str(int(value))
    return f"{value:.2f}" if key == "seconds" else f"{value:.6g}"
