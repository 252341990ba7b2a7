"""A data set's chunks again, with estimated cameras; frames and scenes without one are marked, left out, recorded."""

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from novelview.config.stages import PosesStage
from novelview.errors import ConfigError, DataError
from novelview.files import read_json, sha256, write_bytes, write_json
from novelview.scenes.chunks import ChunkScene, read_chunk, write_chunk
from novelview.scenes.estimation.alignment import Placed, errors, place
from novelview.scenes.estimation.asked import asked_frames, named_frames
from novelview.scenes.estimation.cache import Outcome, estimated
from novelview.scenes.estimation.estimate import Estimate, Estimator, given_cameras
from novelview.scenes.estimation.record import covered, summary
from novelview.scenes.raw import RawData
from novelview.scenes.views import EvalEntry, load_index
from novelview.timebox import TimeBox

logger = logging.getLogger(__name__)
NO_CAMERA = [1.0, 1.0, 0.5, 0.5, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0]


@dataclass
class Replacement:
    """One run over a data set: what it reads, and what it has found so far.

    records: scene -> its entry in poses.json; unposed: written scene -> frames left without a camera.
    """

    raw: RawData
    estimator: Estimator
    cfg: PosesStage
    estimates: Path
    indices: dict[str, list[EvalEntry]]
    records: dict[str, dict[str, Any]] = field(default_factory=dict)
    unposed: dict[str, list[int]] = field(default_factory=dict)
    box: TimeBox = field(default_factory=TimeBox)

    def write(self, folder: Path) -> dict[str, Any]:
        """Fill `folder` with chunks, indices, scenes.json and poses.json; return what the manifest says of it.

        poses.json is written beside the estimates first, so that it is there also when this raises. Raises DataError
        when no scene gets a camera, or no evaluation entry all of its cameras, BoxEnded when the time of `box` is over,
        after one new estimate at least.
        """
        for split in dict.fromkeys(self.cfg.splits):
            self._split(split, folder)
        placed = {key: set(record["placed"]) for key, record in self.records.items()}
        content = self._content(covered(self.indices, placed))
        write_json(self.estimates / "poses.json", content)
        self._judge(content)
        write_json(folder / "poses.json", content)
        self._carry_over(folder, content["entries"])
        poses = {key: content[key] for key in ("estimator", "align", "summary", "entries")}
        return {"unposed": self.unposed, "poses": poses}

    def _split(self, split: str, folder: Path) -> None:
        index: dict[str, str] = {}
        named = named_frames(self.indices)
        chunks = self.raw.chunks[split]
        for path in tqdm(chunks, "poses", unit="chunk", disable=not self.cfg.runtime.progress):
            if sha256(path) != self.raw.checksums[f"{split}/{path.name}"]:
                raise DataError(f"{path}: its content differs from the manifest; run the download stage again")
            scenes = read_chunk(path)
            outcomes = self._outcomes(scenes, named if split == "test" else None)
            kept = [self._scene(split, *pair, folder) for pair in zip(scenes, outcomes, strict=True)]
            kept = [scene for scene in kept if scene is not None]
            if kept:
                write_chunk(folder / split / path.name, kept)
                index |= dict.fromkeys((scene.key for scene in kept), path.name)
        if index:
            write_json(folder / split / "index.json", index)

    def _outcomes(self, scenes: Sequence[ChunkScene], named: Mapping[str, set[int]] | None) -> Iterator[Outcome]:
        """Estimate scenes side by side: each is a process of its own, which a thread of this one waits for."""
        settings = asdict(self.cfg.poses)

        def job(scene: ChunkScene) -> Outcome:
            frames = asked_frames(scene, None if named is None else named.get(scene.key, set()), self.cfg.poses)
            return estimated(self.estimator, settings, scene, frames, self.estimates)

        workers = 1 if self.estimator.alone else max(1, self.cfg.runtime.workers)
        with ThreadPoolExecutor(workers) as pool:
            jobs = [pool.submit(job, scene) for scene in scenes]
            try:
                for outcome in (job.result() for job in jobs):
                    if outcome.fresh:
                        self.box.unit()
                    yield outcome
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def _scene(self, split: str, scene: ChunkScene, outcome: Outcome, folder: Path) -> ChunkScene | None:
        """Return a scene with its new cameras, or None for one without any; either way it is recorded."""
        if scene.key in self.records:
            raise DataError(f"{self.raw.folder}: scene {scene.key} is in two splits; estimate them one at a time")
        record: dict[str, Any] = {"split": split, "frames": len(scene.images), "asked": len(outcome.asked)}
        record |= {"placed": [], "failure": outcome.failure, "seconds": outcome.seconds}
        self.records[scene.key] = record
        estimate = outcome.estimate
        if estimate is None:
            return None
        given, intrinsics = (values[estimate.frames] for values in given_cameras(scene))
        record |= estimate.quality | (errors(estimate, given, intrinsics) or {})
        try:
            placed = place(estimate, given, self.cfg.align, self.cfg.length)
        except DataError as error:
            record["failure"] = str(error)
            return None
        record |= {"placed": estimate.frames, "scale": placed.scale}
        if estimate.quality.get("depth_range"):
            record["depth_range"] = [depth * placed.scale for depth in estimate.quality["depth_range"]]
        missing = sorted(set(range(len(scene.images))) - set(estimate.frames))
        self.unposed |= {scene.key: missing} if missing else {}
        _write_depth(folder / "depth" / split / f"{scene.key}.safetensors", estimate, placed)
        return with_cameras(scene, estimate, placed.w2c)

    def _content(self, entries: dict[str, dict[str, int]]) -> dict[str, Any]:
        sets = read_json(self.raw.folder / "scenes.json") if (self.raw.folder / "scenes.json").is_file() else {}
        scenes = {key: {"set": sets.get(key, {}).get("set"), **record} for key, record in self.records.items()}
        head = {"estimator": self.estimator.name, "align": self.cfg.align, "dataset": self.cfg.dataset}
        return {**head, "summary": summary(self.records), "entries": entries, "scenes": scenes}

    def _judge(self, content: dict[str, Any]) -> None:
        counts, where = content["summary"], self.estimates / "poses.json"
        logger.info("%s: %d of %d scenes, %d of %d frames placed", self.estimator.name, *_counts(counts))
        if not counts["placed_scenes"]:
            reason = next(iter(counts["failures"]), "there are none")
            raise DataError(
                f"{self.estimator.name}: none of {counts['scenes']} scenes got cameras ({reason}); see {where}"
            )
        offered, kept = (sum(entry[key] for entry in content["entries"].values()) for key in ("index", "kept"))
        if offered and not kept:
            raise DataError(
                f"{self.estimator.name}: none of {offered} evaluation entries has all of its cameras; see {where}"
            )

    def _carry_over(self, folder: Path, entries: dict[str, dict[str, int]]) -> None:
        """Copy what belongs to the scenes; an index of which no entry is left becomes empty, poses.json counts them."""
        for name in ("scenes.json", "import.json"):
            if (self.raw.folder / name).is_file():
                shutil.copyfile(self.raw.folder / name, folder / name)
        for split, counts in entries.items():
            target = folder / "indices" / f"{split}.json"
            target.parent.mkdir(exist_ok=True)
            if counts["kept"]:
                shutil.copyfile(self.raw.folder / "indices" / target.name, target)
            else:
                write_json(target, {})


def _counts(found: dict[str, Any]) -> list[int]:
    return [found[name] for name in ("placed_scenes", "scenes", "placed_frames", "asked_frames")]


def with_cameras(scene: ChunkScene, estimate: Estimate, w2c: Tensor) -> ChunkScene:
    """Return a scene with the cameras of the placed frames; the others keep their numbers and lose their pictures."""
    cameras = torch.tensor(NO_CAMERA).repeat(len(scene.images), 1)
    rows = torch.cat([estimate.intrinsics, w2c.new_zeros(len(w2c), 2), w2c[:, :3].flatten(1)], dim=1)
    cameras[estimate.frames] = rows.float()
    placed = set(estimate.frames)
    images = [image if frame in placed else b"" for frame, image in enumerate(scene.images)]
    return ChunkScene(scene.key, scene.url, scene.timestamps, cameras, images)


def _write_depth(path: Path, estimate: Estimate, placed: Placed) -> None:
    if estimate.depth is not None:
        values = {"depth": estimate.depth.values * placed.scale, "confidence": estimate.depth.confidence}
        values["frames"] = torch.tensor(estimate.frames)
        write_bytes(path, save({name: value.contiguous() for name, value in values.items()}))


def open_replacement(raw: RawData, estimator: Estimator, cfg: PosesStage, estimates: Path, box: TimeBox) -> Replacement:
    """Return a run over `raw`; raises ConfigError for a split that it does not have."""
    for split in cfg.splits:
        if split not in raw.chunks:
            raise ConfigError(f"splits: {raw.folder} has no split '{split}', only {', '.join(raw.chunks)}")
    found = sorted((raw.folder / "indices").glob("*.json")) if "test" in cfg.splits else []
    indices = {path.stem: load_index(path) for path in found}
    return Replacement(raw, estimator, cfg, estimates, indices, box=box)
