"""The type of the fixture `make_packed`, for tests that name it."""

from collections.abc import Callable
from pathlib import Path

MakePacked = Callable[..., Path]
