"""Estimates kept on disk as they come, so that a stopped run goes on where it was: a file a scene."""

import hashlib
import json
import logging
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from novelview.errors import DataError
from novelview.files import read_json, write_bytes, write_json
from novelview.scenes.chunks import ChunkScene
from novelview.scenes.estimation.estimate import Depth, Estimate, Estimator
from novelview.scenes.imports.reconstruct import Stopped

logger = logging.getLogger(__name__)


@dataclass
class Outcome:
    """What became of one scene: its estimate, or why there is none; asked: the frames the estimator was given."""

    asked: list[int]
    estimate: Estimate | None
    failure: str | None
    seconds: float
    fresh: bool = False  # found in this call, and kept for the next


def estimated(
    estimator: Estimator, settings: dict[str, Any], scene: ChunkScene, frames: list[int], folder: Path
) -> Outcome:
    """Return a scene's outcome: the one an earlier run left in `folder`, or a fresh one, which is left there.

    settings: what the estimate depends on beside the scene. Whatever the estimator raises becomes the scene's failure;
    failures that another try may mend (killed, out of time) are not kept.
    """
    key = _key(settings, scene, frames)
    kept = _kept(folder / f"{scene.key}.json", key)
    if kept is not None:
        return kept
    started = time.monotonic()
    estimate, failure, final = _tried(estimator, scene, frames, folder / f"{scene.key}.log")
    outcome = Outcome(frames, estimate, failure, round(time.monotonic() - started, 2))
    if failure:
        logger.warning("%s: %s: no cameras: %s", estimator.name, scene.key, failure)
    if final:
        _keep(folder / f"{scene.key}.json", key, outcome)
    outcome.fresh = final
    return outcome


def _tried(
    estimator: Estimator, scene: ChunkScene, frames: list[int], log: Path
) -> tuple[Estimate | None, str | None, bool]:
    """Return the estimate, or the reason of the failure, and whether trying again would bring the same."""
    if not frames:
        return None, "no frames to place: damaged, or named by no evaluation entry", True
    try:
        with tempfile.TemporaryDirectory(prefix="novelview-poses-") as work:
            return _checked(estimator.estimate(scene, frames, Path(work), log), frames), None, True
    except Stopped as error:
        return None, str(error), False
    except DataError as error:
        return None, str(error), True
    # One scene's trouble, of whatever kind, must not cost the others: it is written down, and the log has it in full.
    except Exception as error:
        logger.exception("%s: %s", estimator.name, scene.key)
        return None, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}", False


def _checked(estimate: Estimate, frames: list[int]) -> Estimate:
    """Return a usable estimate; raises DataError for one that no camera can be written from."""
    if not estimate.frames:
        raise DataError(f"none of {len(frames)} frames got a camera")
    if estimate.frames != sorted(set(estimate.frames)) or not set(estimate.frames) <= set(frames):
        raise DataError("the estimator named frames it was not given, or one twice")
    numbers = torch.cat([estimate.w2c.flatten(), estimate.intrinsics.flatten()])
    upright = torch.linalg.det(estimate.w2c[:, :3, :3].nan_to_num()) > 0.5
    if not numbers.isfinite().all() or not (estimate.intrinsics[:, :2] > 0).all() or not upright.all():
        raise DataError("the estimated cameras are not finite, or no cameras")
    return estimate


def _key(settings: dict[str, Any], scene: ChunkScene, frames: list[int]) -> str:
    """Return a digest of everything an estimate depends on."""
    total = hashlib.sha256(json.dumps([settings, scene.key, frames], sort_keys=True).encode())
    total.update(scene.cameras.contiguous().numpy().tobytes())
    for frame in frames:
        total.update(hashlib.sha256(scene.images[frame].numpy().tobytes()).digest())
    return total.hexdigest()


def _keep(path: Path, key: str, outcome: Outcome) -> None:
    estimate = outcome.estimate
    if estimate is not None and estimate.depth is not None:
        depth = {"values": estimate.depth.values.contiguous(), "confidence": estimate.depth.confidence.contiguous()}
        write_bytes(path.with_suffix(".safetensors"), save(depth))
    content = {"key": key, "asked": outcome.asked, "failure": outcome.failure, "seconds": outcome.seconds}
    if estimate is not None:
        content |= {"frames": estimate.frames, "quality": estimate.quality, "depth": estimate.depth is not None}
        content |= {"w2c": estimate.w2c.tolist(), "intrinsics": estimate.intrinsics.tolist()}
    write_json(path, content)


def _kept(path: Path, key: str) -> Outcome | None:
    """Return the outcome an earlier run kept; None where there is none, it is damaged, or of something else."""
    try:
        found = read_json(path)
        if found["key"] != key:
            return None
        estimate = _estimate(path, found) if found["failure"] is None else None
        return Outcome(found["asked"], estimate, found["failure"], found["seconds"])
    except (DataError, KeyError, TypeError, ValueError, OSError):
        return None


def _estimate(path: Path, found: dict[str, Any]) -> Estimate:
    w2c, intrinsics = (torch.tensor(found[name], dtype=torch.float64) for name in ("w2c", "intrinsics"))
    depth = Depth(**load_file(path.with_suffix(".safetensors"))) if found["depth"] else None
    return Estimate(found["frames"], w2c, intrinsics, found["quality"], depth)
