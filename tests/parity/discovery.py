"""Finds fixture folders: every folder below NOVELVIEW_GOLDENS (default tests/goldens) that has a config.json."""

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

KINDS = Path(__file__).parent / "kinds"
DEFAULT = Path(__file__).parents[1] / "goldens"


def fixture_folders() -> list[tuple[str, Path]]:
    """Return (name below the root, folder) of every fixture; links are followed."""
    root = Path(os.environ.get("NOVELVIEW_GOLDENS") or DEFAULT)
    found = [Path(folder) for folder, _, files in os.walk(root, followlinks=True) if "config.json" in files]
    return sorted((str(folder.relative_to(root)), folder) for folder in found)


def kind_of(folder: Path) -> str:
    """Return the kind of a fixture: what its config.json calls `fixture`, or `kind`."""
    config = json.loads((folder / "config.json").read_text())
    return str(config.get("fixture") or config.get("kind") or "unnamed")


def load_kind(kind: str) -> ModuleType | None:
    """Import kinds/<kind>.py, or return None when there is none."""
    path = KINDS / f"{kind}.py"
    if not path.is_file():
        return None
    spec = importlib.util.spec_from_file_location(f"parity_{kind}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def checks_of(kind: str) -> dict[str, Callable[[Path, dict[str, Any]], None]]:
    """Return the functions `check_*(folder, config)` of a kind; an unknown kind has one that fails."""
    module = load_kind(kind)
    if module is None:
        return {"unknown_kind": _unknown}
    return {name.removeprefix("check_"): value for name, value in vars(module).items() if name.startswith("check_")}


def _unknown(folder: Path, config: dict[str, Any]) -> None:
    known = ", ".join(sorted(path.stem for path in KINDS.glob("[a-z]*.py")))
    pytest.fail(f"{folder}: no checks for fixtures of kind '{kind_of(folder)}'; known kinds: {known}")
