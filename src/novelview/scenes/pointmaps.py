"""Pointmaps of a teacher on disk: what every pixel of every frame of a scene sees, at the size of the training.

A folder holds a safetensors file a scene, `points` [n 3 h w] and `frames` [n], and manifest.json, written last."""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from novelview.config.schema import ViewsConfig
from novelview.config.stages import SIZED_BY
from novelview.errors import DataError
from novelview.files import MANIFEST, check_size, file_entry, read_json, sha256, write_bytes, write_json
from novelview.timebox import BoxEnded, Share, TimeBox, Unfinished

FORMAT = 1
ADVICE = "run the pointmaps stage again"

Scenes = Iterable[tuple[str, list[int]]]  # scene, frame numbers
Points = Callable[[str, list[int]], Float[Tensor, "n 3 h w"]]  # scene, frame numbers -> points


def sizing(views: ViewsConfig) -> dict[str, Any]:
    """Return the keys of `views` that say how a frame becomes the network's image."""
    return {key: asdict(views)[key] for key in SIZED_BY}


def write_pointmaps(
    out: Path,
    teacher: str,
    views: ViewsConfig,
    scenes: Scenes,
    teach: Points,
    stamp: str,
    box: TimeBox,
    share: Share | None = None,
) -> int:
    """Write pointmaps into `out`, which appears whole; return how many. After BoxEnded and after DataError, which names
    the scenes that failed when all others are made, a call with the same `stamp` goes on. share: of several processes,
    of which the first joins what all made and returns last."""
    share = share or Share()
    made, failed, boxed = dict[str, tuple[int, Any]](), list[str](), ""
    with share.folder(out, stamp) as (folder, units):
        try:
            for number, (scene, frames) in enumerate(scenes):
                if share.mine(number):
                    try:
                        made[scene] = (
                            number,
                            _entry(folder / f"{number:06d}.safetensors", units, teach, scene, frames, box),
                        )
                    except (DataError, RuntimeError) as error:  # out of memory, say
                        failed.append(f"{scene} ({' '.join(str(error).split())[:120]})")
        except BoxEnded as ended:
            boxed = str(ended)
        reports = share.meet(units, [made, failed, boxed])
        if reports is None:
            return len(made)
        if any(boxed for *_, boxed in reports):
            raise BoxEnded(next(boxed for *_, boxed in reports if boxed))
        if failed := [line for _, own, _ in reports for line in own]:
            told = ", ".join(failed[:5])
            raise DataError(f"{out}: no pointmaps of {len(failed)} scenes: {told}; the others are kept")
        rows = sorted((row for own, *_ in reports for row in own.items()), key=lambda row: row[1][0])
        entries = {scene: entry for scene, (_, entry) in rows}
        write_json(folder / MANIFEST, {"format": FORMAT, "teacher": teacher, "views": sizing(views), "scenes": entries})
        return len(entries)


def _entry(path: Path, units: Unfinished, teach: Points, scene: str, frames: list[int], box: TimeBox) -> dict[str, Any]:
    """Return what the manifest says of a scene's file, made now unless an earlier call left it whole."""
    entry = units.read_json(path.stem)
    if entry is None or not path.is_file() or sha256(path) != entry["sha256"]:
        points = teach(scene, frames).contiguous()
        if not points.isfinite().all():
            raise DataError("points that are not finite")
        write_bytes(path, save({"points": points, "frames": torch.tensor(frames)}))
        entry = {"file": path.name, **file_entry(path)}
        units.keep_json(path.stem, entry)
        box.unit()
    return entry


class Pointmaps:
    """Reader of one folder; raises DataError when it is not whole, of another teacher, or for other image sizes."""

    def __init__(self, folder: Path | str, views: ViewsConfig, teacher: str) -> None:
        self.folder = Path(folder)
        content = read_json(manifest := self.folder / MANIFEST)
        try:
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']}")
            by, made_for, self.scenes = content["teacher"], dict(content["views"]), dict(content["scenes"])
            files = {str(entry["file"]): {"bytes": entry["bytes"]} for entry in self.scenes.values()}
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{manifest}: not the manifest of pointmaps ({error}); {ADVICE}") from None
        if by != teacher:
            raise DataError(f"{manifest}: by teacher {by}, the training asks for {teacher}; {ADVICE}")
        for key, wanted in sizing(views).items():
            if (found := made_for.get(key)) != wanted:
                raise DataError(f"{manifest}: made for {key}={found}, not for {wanted}; {ADVICE}")
        for name, entry in files.items():
            check_size(self.folder / name, entry, ADVICE)

    def points(self, scene: str, frames: Sequence[int]) -> Float[Tensor, "v 3 h w"]:
        if scene not in self.scenes:
            raise DataError(f"{self.folder}: no pointmaps of scene {scene}; {ADVICE}")
        path = self.folder / self.scenes[scene]["file"]
        try:
            with safe_open(path, framework="pt") as file:
                rows = {frame: row for row, frame in enumerate(file.get_tensor("frames").tolist())}
                maps = file.get_slice("points")
                found = torch.stack([maps[rows[frame]].float() for frame in frames])
        except (SafetensorError, KeyError) as error:
            raise DataError(f"{path}: no pointmap of a frame of scene {scene} ({error}); {ADVICE}") from None
        if not found.isfinite().all():
            text = f"{path}: scene {scene} has points that are not finite, and PM-Loss counts it 0"
            warnings.warn(text, RuntimeWarning, stacklevel=2)
        return found
