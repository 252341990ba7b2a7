"""Keys of configuration nodes: default, meaning and allowed values at the field, for checks, error lines and docs.

Checked when a configuration is composed, so `snakemake -n` meets what is wrong."""

import copy
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from novelview.errors import ConfigError

FOLDER_NAME = "names a folder; use the letters a to z, digits, . _ - and begin with no . or -"
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")  # goes into paths and shell commands
OPTIONAL_IO = ("init", "pointmaps", "inputs", "curves", "extras", "models", "images", "cameras")
OPTIONAL_IO += ("save_state", "load_state")


@dataclass(frozen=True)
class Key:
    """What a key means, and the values it takes.

    choices: `a | b: what it means`; above, at_least, within: bounds of a number; limits: bounds of a number, or of a
    pair [low, high]; folder: names a folder."""

    means: str = ""
    choices: str = ""
    above: float | None = None
    at_least: float | None = None
    within: tuple[float, float] | None = None
    limits: tuple[float, float] | None = None
    folder: bool = False

    def problem(self, value: Any) -> str:
        """Return what is wrong with a value, empty if nothing is."""
        words = [part.partition(":")[0] for part in self.choices.split(" | ")]
        if self.choices and value not in words:
            return f"choose one of {', '.join(words)}"
        if self.above is not None and not value > self.above:
            return f"must be greater than {self.above}"
        if self.at_least is not None and value < self.at_least:
            return f"must be {self.at_least} or more"
        if self.within and not self.within[0] <= value <= self.within[1]:
            return "must lie between {} and {}".format(*self.within)
        if self.folder and isinstance(value, str) and not NAME.fullmatch(value):
            return FOLDER_NAME
        return _outside(value, *self.limits) if self.limits else ""

    def description(self) -> str:
        """Return choices, meaning and bounds for the reference."""
        bounds = [f"above {self.above:g}"] if self.above is not None else []
        bounds += [f"{self.at_least:g} or more"] if self.at_least is not None else []
        bounds += ["{:g} to {:g}".format(*pair) for pair in (self.within, self.limits) if pair]
        return "; ".join(filter(None, [self.choices, self.means, *bounds]))


def key(default: Any, means: str = "", **constraints: Any) -> Any:
    """Return the field of a configuration node: its default (or what makes it), meaning and constraints (`Key`)."""
    kept = {"key": Key(means, **constraints)}
    if callable(default):
        return field(default_factory=default, metadata=kept)
    if isinstance(default, list | dict):
        return field(default_factory=lambda: copy.copy(default), metadata=kept)
    return field(default=default, metadata=kept)


def validate(config: Any, prefix: str = "") -> None:
    """Raise ConfigError, naming the key and the allowed values, for the first value out of range.

    A node's own `check()` says what holds for several of its keys together."""
    nodes = list(_nodes(config, prefix))
    for path, node in nodes:
        for item in fields(node):
            _check_value(f"{path}{item.name}", getattr(node, item.name), item.metadata.get("key"))
    for name, path in getattr(config, "io", {}).items():
        empty = path == "" or (path is None and name not in OPTIONAL_IO)
        refuse(empty, f"io.{name} is empty; give a path as io.{name}=...")
    for _, node in reversed(nodes):
        if hasattr(node, "check"):
            node.check()


def refuse(condition: object, message: str) -> None:
    """Raise ConfigError with the message where the condition holds."""
    if condition:
        raise ConfigError(message)


def _nodes(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, node
    for item in fields(node):
        value = getattr(node, item.name)
        if is_dataclass(value):
            yield from _nodes(value, f"{path}{item.name}.")


def _check_value(name: str, value: Any, known: Key | None) -> None:
    problem = known.problem(value) if known else ""
    # Numbers that nothing computes with: infinite ones, and whole ones beyond 64 bits.
    if not problem and isinstance(value, float | int) and not (abs(value) < 2**63 and math.isfinite(value)):
        problem = "must be a finite number within 64 bits"
    refuse(problem, f"{name}={value}: {problem}")


def _outside(value: Any, low: float, high: float) -> str:
    if isinstance(value, list):
        fits = len(value) == 2 and low <= value[0] <= value[1] <= high
        return "" if fits else f"must be a pair [low, high] within [{low:g}, {high:g}]"
    return "" if low <= value <= high else f"must lie in [{low:g}, {high:g}]"
