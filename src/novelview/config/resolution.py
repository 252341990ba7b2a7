"""Sizes of images as people write them: 126 for a square, 72x128 (height x width) for a rectangle."""

import re
from dataclasses import dataclass
from typing import Protocol

from novelview.errors import ConfigError


class Sized(Protocol):
    """What a size is read from (`novelview.config.schema.ViewsConfig`)."""

    image_size: int
    image_width: int


@dataclass(frozen=True, order=True)
class Resolution:
    """Height and width in pixels; ordered by height, printed as in paths."""

    height: int
    width: int

    def __str__(self) -> str:
        return str(self.height) if self.height == self.width else f"{self.height}x{self.width}"

    def __bool__(self) -> bool:
        return self.height > 0

    @classmethod
    def parse(cls, text: str | int) -> "Resolution":
        """Read `126` or `72x128`; raises ConfigError for anything else."""
        found = re.fullmatch(r"([1-9]\d{0,4})(?:x([1-9]\d{0,4}))?", str(text))
        if not found:
            raise ConfigError(f"image size {text!r}: write 256 for a square or 72x128 for height x width")
        return cls(int(found[1]), int(found[2] or found[1]))


def sides(views: Sized) -> tuple[int, int]:
    """Return (height, width) of the images `views` asks for; without image_width they are called squares."""
    return views.image_size, views.image_width or views.image_size


def size_name(views: Sized) -> str:
    """Return how paths and tables call the size of `views`: `126`, or `72x128` where the sides differ."""
    return str(Resolution(*sides(views)))
