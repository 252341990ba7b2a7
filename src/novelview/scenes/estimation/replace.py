"""A data set's chunks again, with estimated cameras; frames and scenes without one are marked, left out, recorded."""

import logging
import shutil
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from novelview.cameras.align import Similarity, fit_cameras, rotation_error_deg, translation_error
from novelview.config.stages import PosesStage
from novelview.errors import ConfigError, DataError
from novelview.files import read_json, sha256, write_bytes, write_json
from novelview.scenes.chunks import ChunkScene, RawData, read_chunk, write_chunk
from novelview.scenes.estimation.estimate import Estimate, Estimator, Outcome, asked_frames, estimated, given_cameras
from novelview.scenes.store import MASKS
from novelview.scenes.views import load_index
from novelview.timebox import BoxEnded, Share, TimeBox

logger = logging.getLogger(__name__)
NO_CAMERA = [1.0, 1.0, 0.5, 0.5, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0]
SIM3_FRAMES = 2  # fewer cameras fix no scale
SMALLEST = 1e-9
SHOWN = 5  # failed scenes that an error line names
MEANS = ("rotation_deg", "relative_rotation_deg")


def place(
    estimate: Estimate, given: Float[Tensor, "k 4 4"], align: str, length: float
) -> tuple[Float[Tensor, "k 4 4"], float]:
    """Return w2c after `align` (sim3, scale to `length`, none) and its factor; DataError where scale is open."""
    if align == "none":
        return estimate.w2c, 1.0
    c2w = torch.linalg.inv(estimate.w2c)
    extent = torch.pdist(c2w[:, :3, 3]).max().item() if len(c2w) >= SIM3_FRAMES else 0.0
    if extent <= SMALLEST:
        raise DataError(f"{len(c2w)} cameras in one place leave the scale open; align=none keeps them as they are")
    if align == "scale":
        moved = c2w.clone()
        moved[:, :3, 3] *= length / extent
        return torch.linalg.inv(moved), length / extent
    similarity = _similarity(c2w, torch.linalg.inv(given))
    return torch.linalg.inv(similarity.cameras(c2w)), float(similarity.scale)


def _similarity(estimated: Float[Tensor, "k 4 4"], given: Float[Tensor, "k 4 4"]) -> Similarity:
    # Video paths are nearly straight: by the centres alone their noise decides the turn about the line.
    similarity = fit_cameras(estimated, given, orientation_weight=1.0)
    if not float(similarity.scale) > SMALLEST:
        raise DataError("the estimated cameras have nothing in common with the given ones: no Sim(3) fits them")
    return similarity


def errors(
    estimate: Estimate, given: Float[Tensor, "k 4 4"], intrinsics: Float[Tensor, "k 4"]
) -> dict[str, Any] | None:
    """Return how far an estimate is from the given cameras after Sim(3), frame by frame; None where none fits."""
    c2w, true = torch.linalg.inv(estimate.w2c), torch.linalg.inv(given)
    if len(c2w) < SIM3_FRAMES:
        return None
    try:
        aligned = _similarity(c2w, true).cameras(c2w)
    except DataError:
        return None
    centres = true[:, :3, 3]
    found = {"rotation_deg": rotation_error_deg(aligned, true), "translation": translation_error(aligned, true)}
    turned = (torch.linalg.inv(cameras[:1]) @ cameras for cameras in (c2w, true))
    found["relative_rotation_deg"] = rotation_error_deg(*turned)  # to the first placed frame, which needs no alignment
    # The root mean square distance of the given centres from their mean, and the mean ratio of focal lengths.
    spread = (centres - centres.mean(dim=0)).square().sum(dim=1).mean().sqrt()
    focal = (estimate.intrinsics[:, :2] / intrinsics[:, :2]).mean()
    rounded = {name: [round(value, 6) for value in values.tolist()] for name, values in found.items()}
    return {**rounded, "spread": round(float(spread), 6), "focal": round(float(focal), 6)}


class Replacement:
    def __init__(self, raw: RawData, estimator: Estimator, cfg: PosesStage, estimates: Path, box: TimeBox) -> None:
        """Read the evaluation entries; raises ConfigError for a split that `raw` does not have."""
        for split in cfg.splits:
            if split not in raw.chunks:
                raise ConfigError(f"splits: {raw.folder} has no split '{split}', only {', '.join(raw.chunks)}")
        found = sorted((raw.folder / "indices").glob("*.json")) if "test" in cfg.splits else []
        self.raw, self.estimator, self.cfg, self.estimates, self.box = raw, estimator, cfg, estimates, box
        self.indices = {path.stem: load_index(path) for path in found}
        self.records: dict[str, dict[str, Any]] = {}  # scene -> its entry in poses.json
        self.passing: list[str] = []  # scenes that failed for a reason outside of their pictures
        self.unposed: dict[str, list[int]] = {}  # written scene -> frames left without a camera

    def estimate(self, share: Share) -> str:
        """Estimate a share of the scenes, kept in `estimates` where `write` finds them; return what BoxEnded says."""
        try:
            chunks = ((split, path) for split in dict.fromkeys(self.cfg.splits) for path in self.raw.chunks[split])
            for number, (split, path) in enumerate(chunks):
                scenes = [scene for row, scene in enumerate(read_chunk(path)) if share.mine(number + row)]
                deque(self._outcomes(scenes, split), maxlen=0)
        except BoxEnded as ended:
            return str(ended)
        return ""

    def write(self, folder: Path) -> dict[str, Any]:
        """Fill `folder` with chunks, indices, scenes.json and poses.json; return what the manifest says of it.

        Raises DataError when no scene gets a camera, no evaluation entry all of its cameras, or more scenes than
        `max_failed` failed for a reason outside of their pictures; BoxEnded."""
        for split in dict.fromkeys(self.cfg.splits):
            self._split(split, folder)
        content = self._content()
        write_json(where := self.estimates / "poses.json", content)
        counts = content["summary"]
        found = [counts[name] for name in ("placed_scenes", "scenes", "placed_frames", "asked_frames")]
        logger.info("%s: %d of %d scenes, %d of %d frames placed", self.estimator.name, *found)
        offered, kept = (sum(entry[key] for entry in content["entries"].values()) for key in ("index", "kept"))
        failed = f"none of {offered} evaluation entries has all of its cameras" if offered and not kept else ""
        if not counts["placed_scenes"]:
            reason = next(iter(counts["failures"]), "there are none")
            failed = f"none of {counts['scenes']} scenes got cameras ({reason})"
        if not failed and (lost := len(self.passing)) > self.cfg.max_failed:
            cure = f"run again for them, the others are kept, or go on without them: max_failed={lost}"
            failed = f"{lost} scenes failed: {', '.join(self.passing[:SHOWN])}; {cure}"
        if failed:
            raise DataError(f"{self.estimator.name}: {failed}; see {where}")
        write_json(folder / "poses.json", content)
        for name in ("scenes.json", "import.json"):
            if (self.raw.folder / name).is_file():
                shutil.copyfile(self.raw.folder / name, folder / name)
        if (self.raw.folder / MASKS).is_dir():
            shutil.copytree(self.raw.folder / MASKS, folder / MASKS, dirs_exist_ok=True)
        for split, entries in content["entries"].items():  # an index of which no entry is left becomes empty
            target = folder / "indices" / f"{split}.json"
            whole = (self.raw.folder / "indices" / target.name).read_bytes()
            write_bytes(target, whole if entries["kept"] else b"{}\n")
        poses = {key: content[key] for key in ("estimator", "align", "summary", "entries")}
        return {"unposed": self.unposed, "poses": poses}

    def _split(self, split: str, folder: Path) -> None:
        index: dict[str, str] = {}
        chunks = self.raw.chunks[split]
        for path in tqdm(chunks, "poses", unit="chunk", disable=not self.cfg.runtime.progress):
            if sha256(path) != self.raw.checksums[f"{split}/{path.name}"]:
                raise DataError(f"{path}: its content differs from the manifest; run the download stage again")
            scenes = read_chunk(path)
            pairs = zip(scenes, self._outcomes(scenes, split), strict=True)
            kept = [scene for pair in pairs if (scene := self._scene(split, *pair, folder)) is not None]
            if kept:
                write_chunk(folder / split / path.name, kept)
                index |= dict.fromkeys((scene.key for scene in kept), path.name)
        if index:
            write_json(folder / split / "index.json", index)

    def _outcomes(self, scenes: Sequence[ChunkScene], split: str) -> Iterator[Outcome]:
        """Estimate scenes side by side: each is a process of its own, which a thread of this one waits for."""
        named: dict[str, set[int]] = {}
        for entry in chain(*self.indices.values()):
            named.setdefault(entry.scene, set()).update(entry.context, entry.target)

        def job(scene: ChunkScene) -> Outcome:
            frames = asked_frames(scene, named.get(scene.key, set()) if split == "test" else None, self.cfg.poses)
            return estimated(self.estimator, asdict(self.cfg.poses), scene, frames, self.estimates)

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
        self.passing += [] if outcome.final else [f"{scene.key} ({outcome.failure})"]
        self.records[scene.key] = record
        estimate = outcome.estimate
        if estimate is None:
            return None
        given, intrinsics = (values[estimate.frames] for values in given_cameras(scene))
        record |= estimate.quality | (errors(estimate, given, intrinsics) or {})
        try:
            w2c, scale = place(estimate, given, self.cfg.align, self.cfg.length)
        except DataError as error:
            record["failure"] = str(error)
            return None
        record |= {"placed": estimate.frames, "scale": scale}
        if estimate.quality.get("depth_range"):
            record["depth_range"] = [depth * scale for depth in estimate.quality["depth_range"]]
        missing = sorted(set(range(len(scene.images))) - set(estimate.frames))
        self.unposed |= {scene.key: missing} if missing else {}
        if estimate.depth is not None:
            values = {"depth": estimate.depth.values * scale, "confidence": estimate.depth.confidence}
            values["frames"] = torch.tensor(estimate.frames)
            content = save({name: value.contiguous() for name, value in values.items()})
            write_bytes(folder / "depth" / split / f"{scene.key}.safetensors", content)
        # Frames that were not placed keep their numbers and lose their pictures.
        cameras = torch.tensor(NO_CAMERA).repeat(len(scene.images), 1)
        rows = torch.cat([estimate.intrinsics, w2c.new_zeros(len(w2c), 2), w2c[:, :3].flatten(1)], dim=1)
        cameras[estimate.frames] = rows.float()
        images = [b"" if frame in missing else image for frame, image in enumerate(scene.images)]
        return ChunkScene(scene.key, scene.url, scene.timestamps, cameras, images)

    def _content(self) -> dict[str, Any]:
        placed = {key: set(record["placed"]) for key, record in self.records.items()}
        entries = {}
        for split, found in self.indices.items():
            kept = sum({*entry.context, *entry.target} <= placed.get(entry.scene, set()) for entry in found)
            entries[split] = {"index": len(found), "kept": kept}
        sets = read_json(path) if (path := self.raw.folder / "scenes.json").is_file() else {}
        scenes = {key: {"set": sets.get(key, {}).get("set"), **record} for key, record in self.records.items()}
        head = {"estimator": self.estimator.name, "align": self.cfg.align, "dataset": self.cfg.dataset}
        return {**head, "summary": _summary(self.records), "entries": entries, "scenes": scenes}


def _summary(scenes: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return counts over all scenes, means over placed frames, and how often each reason of a failure occurred."""
    sound = [scene for scene in scenes.values() if scene["failure"] is None]
    reasons = Counter(scene["failure"] for scene in scenes.values() if scene["failure"] is not None)
    found: dict[str, Any] = {
        "scenes": len(scenes),
        "placed_scenes": len(sound),
        "asked_frames": sum(scene["asked"] for scene in scenes.values()),
        "placed_frames": sum(len(scene["placed"]) for scene in sound),
        "seconds": round(sum(scene["seconds"] for scene in scenes.values()), 1),
        "failures": dict(reasons.most_common()),
    }
    known = [scene for scene in sound if "rotation_deg" in scene]
    values = {name: [value for scene in known for value in scene[name]] for name in MEANS}
    spread = [scene for scene in known if scene["spread"] > 0]
    values["translation_over_spread"] = [value / one["spread"] for one in spread for value in one["translation"]]
    values["reprojection_px"] = [scene["reprojection_px"] for scene in sound if "reprojection_px" in scene]
    return found | {name: round(fmean(of), 4) if of else None for name, of in values.items()}
