"""Estimators of a scene's cameras: the frames they are asked for, what they return, and how that is kept on disk."""

import hashlib
import json
import logging
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from safetensors.torch import load, save
from torch import Tensor

from novelview.config.sources import ColmapEstimator, EstimatorConfig
from novelview.errors import DataError
from novelview.files import read_json, write_bytes, write_json
from novelview.scenes.chunks import ChunkScene
from novelview.scenes.imports.reconstruct import QUALITY, Stopped, run_apart
from novelview.scenes.pack import inspect

logger = logging.getLogger(__name__)
FEWEST = 3  # frames that COLMAP needs
PNG = b"\x89PNG"


@dataclass
class Depth:
    """z depth of k frames in the estimate's own scale, and confidences of the estimator's own kind."""

    values: Float[Tensor, "k h w"]
    confidence: Float[Tensor, "k h w"]


@dataclass
class Estimate:
    """Cameras of the k frames an estimator placed, numbers ascending, in a world and a scale of its own."""

    frames: list[int]
    w2c: Float[Tensor, "k 4 4"]  # float64, OpenCV axes
    intrinsics: Float[Tensor, "k 4"]  # fx/W fy/H cx/W cy/H
    quality: dict[str, Any] = field(default_factory=dict)  # what the estimator says of itself, for the record
    depth: Depth | None = None


class Estimator(Protocol):
    name: str
    alone: bool = False  # only one scene at a time, because the estimator itself fills the machine

    def estimate(self, scene: ChunkScene, frames: list[int], work: Path, log: Path) -> Estimate:
        """Return the cameras of frames that could be placed; DataError for none, Stopped is worth another try."""
        ...


def given_cameras(scene: ChunkScene) -> tuple[Float[Tensor, "n 4 4"], Float[Tensor, "n 4"]]:
    """Return the w2c matrices, float64, and normalised intrinsics that a scene came with."""
    w2c = torch.eye(4, dtype=torch.float64).repeat(len(scene.cameras), 1, 1)
    w2c[:, :3] = scene.cameras[:, 6:].double().unflatten(1, (3, 4))
    return w2c, scene.cameras[:, :4].double()


class Given(Estimator):
    """Keeps the cameras that are there."""

    name = "given"

    def estimate(self, scene: ChunkScene, frames: list[int], work: Path, log: Path) -> Estimate:
        w2c, intrinsics = given_cameras(scene)
        return Estimate(frames, w2c[frames], intrinsics[frames])


class Colmap(Estimator):
    """pycolmap on one thread a scene; the same frames, seed and version of pycolmap give the same cameras."""

    name = "colmap"

    def __init__(self, cfg: ColmapEstimator) -> None:
        self.cfg = cfg

    def estimate(self, scene: ChunkScene, frames: list[int], work: Path, log: Path) -> Estimate:
        from novelview.scenes.imports.colmap import read_model  # here: other estimators do without pycolmap

        if len(frames) < FEWEST:
            raise DataError(f"{len(frames)} frames, structure from motion needs at least {FEWEST}")
        names: dict[str, int] = {}  # of the frames' own bytes as files
        (work / "images").mkdir()
        for frame in frames:
            content = scene.images[frame].numpy().tobytes()
            name = f"{frame:06d}{'.png' if content.startswith(PNG) else '.jpg'}"
            (work / "images" / name).write_bytes(content)
            names[name] = frame
        job = {key: getattr(self.cfg, key) for key in ("camera_model", "seed", "matcher", "overlap", "max_features")}
        job |= {"images": str(work / "images"), "names": list(names), "single_camera": True}
        groups: dict[str, list[str]] = {}  # a zooming lens is another one in every frame
        for name, frame in names.items():
            groups.setdefault(self._known(scene, frame, work / "images" / name), []).append(name)
        job["cameras"] = [{"names": own, "params": params} for params, own in groups.items()]
        model = run_apart(job, work, log, threads=1, seconds=self.cfg.seconds)
        if not model.is_dir():
            raise DataError(f"none of {len(frames)} frames could be registered")
        lenses, poses = read_model(model)
        poses.sort(key=lambda pose: pose.name)
        w2c = torch.from_numpy(np.stack([pose.w2c for pose in poses])).double()
        intrinsics = torch.tensor([lenses[pose.camera].normalised() for pose in poses], dtype=torch.float64)
        return Estimate([names[pose.name] for pose in poses], w2c, intrinsics, read_json(model / QUALITY))

    def _known(self, scene: ChunkScene, frame: int, picture: Path) -> str:
        if self.cfg.intrinsics == "estimate":
            return ""
        with Image.open(picture) as image:
            width, height = image.size
        fx, fy, cx, cy = (given_cameras(scene)[1][frame] * torch.tensor([width, height] * 2)).tolist()
        focal = [(fx + fy) / 2] if self.cfg.camera_model == "SIMPLE_PINHOLE" else [fx, fy]
        return ",".join(map(str, [*focal, cx, cy]))


def asked_frames(scene: ChunkScene, named: set[int] | None, cfg: EstimatorConfig) -> list[int]:
    """Return the frames to place, undamaged, ascending; above `max_frames` thinned evenly but for `named` ones."""
    only_named, named = cfg.frames == "entries" and named is not None, named or set()
    asked = [frame for frame in range(len(scene.images)) if not only_named or frame in named]
    sound = [frame for frame in asked if not inspect(scene.images[frame].numpy().tobytes())[1]]
    if only_named or not cfg.max_frames or len(sound) <= cfg.max_frames:
        return sound
    others = [frame for frame in sound if frame not in named]
    room = max(0, cfg.max_frames - (len(sound) - len(others)))
    kept = {others[int((turn + 0.5) * len(others) / room)] for turn in range(min(room, len(others)))}
    return [frame for frame in sound if frame in kept or frame in named]


@dataclass
class Outcome:
    """What became of one scene: its estimate, or why there is none."""

    asked: list[int]  # frames the estimator was given
    estimate: Estimate | None
    failure: str | None
    seconds: float
    fresh: bool = False  # found in this call, and kept for the next
    final: bool = True  # False: failed for a reason outside of its pictures, so another call tries again


def estimated(
    estimator: Estimator, settings: dict[str, Any], scene: ChunkScene, frames: list[int], folder: Path
) -> Outcome:
    """Return a scene's outcome, kept in `folder` unless another try may mend it; what the estimator raises is one."""
    path, settled = folder / f"{scene.key}.json", json.dumps([settings, scene.key, frames], sort_keys=True)
    digest = hashlib.sha256(settled.encode())
    digest.update(scene.cameras.contiguous().numpy().tobytes())
    for frame in frames:
        digest.update(hashlib.sha256(scene.images[frame].numpy().tobytes()).digest())
    if (kept := _kept(path, digest.hexdigest())) is not None:
        return kept
    started, estimate, failure, final = time.monotonic(), None, None, True
    try:
        if not frames:
            raise DataError("no frames to place: damaged, or named by no evaluation entry")
        with tempfile.TemporaryDirectory(prefix="novelview-poses-") as work:
            log = folder / f"{scene.key}.log"
            estimate = _checked(estimator.estimate(scene, frames, Path(work), log), frames)
    except DataError as error:
        failure, final = str(error), not isinstance(error, Stopped)
    # One scene's trouble, of whatever kind, must not cost the others: it is written down, and the log has it in full.
    except Exception as error:
        logger.exception("%s: %s", estimator.name, scene.key)
        failure, final = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}", False
    outcome = Outcome(frames, estimate, failure, round(time.monotonic() - started, 2), final, final)
    if failure:
        logger.warning("%s: %s: no cameras: %s", estimator.name, scene.key, failure)
    if final:
        _keep(path, digest.hexdigest(), outcome)
    return outcome


def _checked(estimate: Estimate, frames: list[int]) -> Estimate:
    if not estimate.frames:
        raise DataError(f"none of {len(frames)} frames got a camera")
    if estimate.frames != sorted(set(estimate.frames)) or not set(estimate.frames) <= set(frames):
        raise DataError("the estimator named frames it was not given, or one twice")
    numbers = torch.cat([estimate.w2c.flatten(), estimate.intrinsics.flatten()])
    upright = torch.linalg.det(estimate.w2c[:, :3, :3].nan_to_num()) > 0.5
    if not numbers.isfinite().all() or not (estimate.intrinsics[:, :2] > 0).all() or not upright.all():
        raise DataError("the estimated cameras are not finite, or no cameras")
    return estimate


def _keep(path: Path, key: str, outcome: Outcome) -> None:
    estimate = outcome.estimate
    depth = b""
    if estimate is not None and estimate.depth is not None:
        depth = save({name: value.contiguous() for name, value in vars(estimate.depth).items()})
        write_bytes(path.with_suffix(".safetensors"), depth)
    content = {"key": key, "asked": outcome.asked, "failure": outcome.failure, "seconds": outcome.seconds}
    if estimate is not None:
        content |= {"frames": estimate.frames, "quality": estimate.quality, "depth": estimate.depth is not None}
        content |= {"w2c": estimate.w2c.tolist(), "intrinsics": estimate.intrinsics.tolist()}
    write_json(path, {**content, "checksum": _checksum(content, depth)})


def _checksum(content: dict[str, Any], depth: bytes) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode() + depth).hexdigest()


def _kept(path: Path, key: str) -> Outcome | None:
    try:
        found = read_json(path)
        depth_file = path.with_suffix(".safetensors")
        stored = depth_file.read_bytes() if found.get("depth") else b""
        if found["key"] != key or found.pop("checksum") != _checksum(found, stored):
            return None
        outcome = Outcome(found["asked"], None, found["failure"], found["seconds"])
        if outcome.failure is None:
            w2c, intrinsics = (torch.tensor(found[name], dtype=torch.float64) for name in ("w2c", "intrinsics"))
            depth = Depth(**load(stored)) if found["depth"] else None
            outcome.estimate = Estimate(found["frames"], w2c, intrinsics, found["quality"], depth)
        return outcome
    except (DataError, KeyError, TypeError, ValueError, OSError):
        return None
