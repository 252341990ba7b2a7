"""Several posed collections to one data set of chunks, a scene each."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch

from novelview.errors import DataError
from novelview.files import write_json
from novelview.scenes.chunks import ChunkScene, ChunkWriter
from novelview.scenes.imports.held_out import choose_held_out, held_out_entries
from novelview.scenes.imports.scene import ImportedScene
from novelview.scenes.imports.write import ImportSource, check, convert, report, scene_key, take
from novelview.scenes.views import EvalEntry, save_index

HELD_OUT = "held_out"
SPLITS = {"train": ("train",), "test": ("test",), HELD_OUT: ("train", "test")}
Groups = Mapping[str, Mapping[str, ImportedScene]]


def write_collection(
    groups: Groups, source: ImportSource, folder: Path, dataset: str, progress: bool = True
) -> dict[str, Any]:
    """Write scenes, keyed by `<name>-<16 hex digits>`, and return what the manifest records of them.

    groups: `train` or `test` -> scenes by name, whole; `held_out` -> scenes of which every frame goes to test/, those
    not held out to train/, with an entry each in indices/held_out.json. import.json lists each scene's pictures and
    what was left out. Raises DataError, one line.
    """
    reports: dict[str, Any] = {}
    entries: list[EvalEntry] = []
    with ExitStack() as stack:
        splits = dict.fromkeys(split for group in groups for split in SPLITS[group])
        writers = {split: stack.enter_context(ChunkWriter(folder / split)) for split in splits}
        for group, name, scene in _flat(groups):
            whole, size = _converted(name, scene, source, dataset, progress)
            back = _held_out(scene, source.held_out) if group == HELD_OUT else []
            for split in SPLITS[group]:
                kept = [row for row in range(len(whole.images)) if split == "test" or row not in set(back)]
                writers[split].add(take(whole, kept))
            entries += _entries(whole.key, scene, back)
            reports[whole.key] = {"set": group, **report(scene, whole.key, back, size)}
    if entries:
        save_index(folder / "indices" / "held_out.json", entries)
    tests = [key for key, found in reports.items() if found["set"] != "train"]
    write_json(folder / "scenes.json", {key: {"set": reports[key]["set"]} for key in tests})
    write_json(folder / "import.json", {"scenes": list(reports.values())})
    return {"import": {"scenes": len(reports), "pictures": sum(len(found["pictures"]) for found in reports.values())}}


def _flat(groups: Groups) -> Iterator[tuple[str, str, ImportedScene]]:
    for group, scenes in groups.items():
        for name, scene in scenes.items():
            yield group, name, scene


def _converted(
    name: str, scene: ImportedScene, source: ImportSource, dataset: str, progress: bool
) -> tuple[ChunkScene, tuple[int, int]]:
    check(source, scene.background)
    images, cameras, size = convert(scene, source, progress)
    key = f"{name[:64]}-{scene_key(scene, dataset)}"
    return ChunkScene(key, "", torch.arange(len(images)), torch.from_numpy(cameras), images), size


def _held_out(scene: ImportedScene, count: int) -> list[int]:
    try:
        return choose_held_out(len(scene.frames), count)
    except DataError as error:
        raise DataError(f"{scene.where}: {error}") from None


def _entries(key: str, scene: ImportedScene, back: list[int]) -> list[EvalEntry]:
    return held_out_entries(key, np.stack([frame.c2w[:3, 3] for frame in scene.frames]), back) if back else []
