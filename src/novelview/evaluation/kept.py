"""Scored batches kept on disk, so that an evaluation whose time box ended goes on after the last of them."""

import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import torch

from novelview.evaluation.gallery import Gallery
from novelview.evaluation.protocol import Ranks
from novelview.evaluation.rows import Row
from novelview.timebox import TimeBox, Unfinished


@dataclass
class KeptBatches:
    """The batches of one process: their rows, and the pictures that `gallery` took of them.

    A unit of `box` is a batch. What follows the batches (cameras, videos, depth, the files) is one unit more.
    """

    units: Unfinished
    box: TimeBox
    gallery: Gallery
    team: Ranks

    def read(self, numbers: Sequence[int]) -> list[Row] | None:
        """Return the rows of the batch of these entries, its pictures given to the gallery; None where it is to do."""
        content = self.units.read(self._name(numbers))
        found = torch.load(io.BytesIO(content), weights_only=True) if content else {}
        if found.get("numbers") != list(numbers):
            return None
        self.gallery.found |= found["pictures"]
        return [Row(*values) for values in found["rows"]]

    def keep(self, numbers: Sequence[int], rows: Sequence[Row]) -> bool:
        """Keep a batch where the time is limited; return whether it is over."""
        if not self.box.limited:
            return False
        pictures = {turn: self.gallery.found[turn] for turn in self.gallery.turns(numbers)}
        stream = io.BytesIO()
        torch.save({"numbers": list(numbers), "rows": [astuple(row) for row in rows], "pictures": pictures}, stream)
        self.units.keep(self._name(numbers), stream.getvalue())
        self.box.units += 1
        return self.box.over

    def _name(self, numbers: Sequence[int]) -> str:
        return f"batch-{numbers[0]:06d}-{self.team.rank}-of-{self.team.world}"


def open_units(out: object, stamp: str, team: Ranks) -> Unfinished:
    """Return the units of an evaluation; the first process removes those of another stamp before the others look."""
    units = Unfinished(str(out), stamp, own=team.rank == 0)
    team.gather(None)
    return units
