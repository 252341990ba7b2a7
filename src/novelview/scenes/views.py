"""Evaluation indices: which frames of which scenes are context and target, in RealEstate10K's JSON format."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from novelview.errors import DataError
from novelview.files import read_json, write_json
from novelview.scenes.store import PackedStore

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvalEntry:
    """One evaluation sample: frame numbers of context and target views in `scene`, and their overlap in [0,1]."""

    scene: str
    context: tuple[int, ...]
    target: tuple[int, ...]
    overlap: float | None = None


def load_index(path: Path | str) -> list[EvalEntry]:
    """Read an evaluation index: scene -> null, an entry, or (our extension) a list; DataError names file and scene."""
    content = read_json(path, "correct it or make it again")
    if not isinstance(content, dict):
        raise DataError(f"{path}: an evaluation index is a JSON object of scenes, this is a {type(content).__name__}")
    rows = ((scene, row) for scene, value in content.items() for row in (value if isinstance(value, list) else [value]))
    return [_entry(f"{path}: scene {scene}", scene, row) for scene, row in rows if row is not None]


def _entry(where: str, scene: str, row: Any) -> EvalEntry:
    if not isinstance(row, Mapping):
        raise DataError(f"{where}: expected null, an entry or a list of entries, found {row!r}")
    for key in ("context", "target"):
        numbers = row.get(key)
        if not (isinstance(numbers, list) and numbers and all(type(one) is int and one >= 0 for one in numbers)):
            raise DataError(f"{where}: '{key}' must be a list of frame numbers, found {numbers!r}")
    overlap = row.get("overlap")
    if overlap is not None and (type(overlap) not in (int, float) or not math.isfinite(overlap)):
        raise DataError(f"{where}: 'overlap' must be a number, found {overlap!r}")
    return EvalEntry(scene, tuple(row["context"]), tuple(row["target"]), None if overlap is None else float(overlap))


def save_index(path: Path | str, entries: Sequence[EvalEntry]) -> None:
    """Write entries in the form `load_index` reads, atomically; a scene with one entry keeps the published form."""
    scenes: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        row = {"context": entry.context, "target": entry.target, "overlap": entry.overlap}
        scenes.setdefault(entry.scene, []).append({key: value for key, value in row.items() if value is not None})
    write_json(path, {scene: rows[0] if len(rows) == 1 else rows for scene, rows in scenes.items()})


def known_entries(entries: Sequence[EvalEntry], store: PackedStore, name: str) -> list[EvalEntry]:
    """Keep the entries that `store` can serve, log the others; DataError for wrong frames, or none left."""
    scenes = set(store.scenes)
    present = [entry for entry in entries if entry.scene in scenes]
    for entry in present:
        highest, n_frames = max(*entry.context, *entry.target), store.frames(entry.scene)
        if highest >= n_frames:
            raise DataError(
                f"{name}: scene {entry.scene}: frame {highest} does not exist, the scene has {n_frames} frames; "
                "is it the index of this data set?"
            )
    whole = [entry for entry in present if not store.bad(entry.scene) & {*entry.context, *entry.target}]
    absent, damaged = len(entries) - len(present), len(present) - len(whole)
    if not whole:
        raise DataError(
            f"{name}: none of its {len(entries)} entries can be served ({absent} name scenes that are not here, "
            f"{damaged} have damaged frames); is it the index of this data set?"
        )
    if absent:
        log.warning("%s: %d of %d entries name scenes that are not here", name, absent, len(entries))
    if damaged:
        log.warning("%s: %d entries left out, their frames are damaged", name, damaged)
    return whole
