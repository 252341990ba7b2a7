"""Structure from motion with pycolmap, which writes to the terminal and may end its process: one of its own."""

import json
import os
import signal
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from novelview.errors import DataError, missing_extra
from novelview.files import write_json
from novelview.timebox import end_with

EXHAUSTIVE_LIMIT = 150  # photographs; above it only neighbours in file order are matched
MAX_SIDE = 1600  # pixels on which features are found; more costs minutes and adds little
MAX_FEATURES = 4096
OVERLAP = 10  # neighbours in file order that a photograph is matched with, and others at powers of two
QUALITY = "quality.json"


class Stopped(DataError):
    """The process ended early for a reason outside of the photographs: killed, or out of time."""


def run_apart(job: dict[str, Any], work: Path, log: Path, threads: int, seconds: float | None = None) -> Path:
    """Reconstruct in a process; return the model's folder, absent without one; Stopped when killed or too slow."""
    job = {**job, **{key: str(work / key) for key in ("database", "models", "model")}, "threads": threads or -1}
    (work / "models").mkdir()
    (work / "job.json").write_text(json.dumps(job))
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **({"OMP_NUM_THREADS": str(threads)} if threads else {})}
    command = [sys.executable, "-m", __name__, str(work / "job.json")]
    with open(log, "wb") as stream:
        pipes: Any = {"stdout": stream, "stderr": subprocess.STDOUT}
        try:
            status = subprocess.run(command, env=environment, timeout=seconds or None, **pipes).returncode
        except subprocess.TimeoutExpired:
            raise Stopped(f"pycolmap took longer than {seconds:g} s; see {log}") from None
    if status < 0:
        raise Stopped(f"pycolmap was killed by {signal.Signals(-status).name}; see {log}")
    if status:
        last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["no output"]
        raise DataError(f"pycolmap ended with status {status} ({last[0][:160]}); see {log}")
    return work / "model"


def reconstruct(job: dict[str, Any]) -> None:
    """Reconstruct the images in job["images"]; write the largest model, binary, and its quality.json to job["model"].

    job: images, database, models, model (paths), names (files in order), camera_model, single_camera, seed, threads;
    optionally matcher (auto | exhaustive | sequential), overlap, max_features, and cameras: a list of {names, params},
    files that share a lens, and its parameters, which are then kept.
    """
    try:
        import pycolmap
    except ModuleNotFoundError as error:
        raise SystemExit(missing_extra(error) or str(error)) from None

    pycolmap.set_random_seed(job["seed"])
    mode = pycolmap.CameraMode.SINGLE if job["single_camera"] else pycolmap.CameraMode.PER_IMAGE
    extraction = pycolmap.FeatureExtractionOptions(max_image_size=MAX_SIDE, num_threads=job["threads"], use_gpu=False)
    extraction.sift.max_num_features = job.get("max_features") or MAX_FEATURES
    known = False
    for camera in job.get("cameras") or [{"names": job["names"]}]:
        params = camera.get("params", "")
        known = known or bool(params)
        reader = pycolmap.ImageReaderOptions(camera_model=job["camera_model"], camera_params=params)
        pycolmap.extract_features(job["database"], job["images"], camera["names"], mode, reader, extraction)
    keywords: dict[str, Any] = {"verification_options": pycolmap.TwoViewGeometryOptions()}
    keywords["verification_options"].ransac.random_seed = job["seed"]
    keywords["matching_options"] = pycolmap.FeatureMatchingOptions(num_threads=job["threads"], use_gpu=False)
    matcher = job.get("matcher", "auto")
    if matcher == "exhaustive" or (matcher == "auto" and len(job["names"]) <= EXHAUSTIVE_LIMIT):
        pycolmap.match_exhaustive(job["database"], **keywords)
    else:
        pairing = pycolmap.SequentialPairingOptions(overlap=job.get("overlap") or OVERLAP)
        pycolmap.match_sequential(job["database"], pairing_options=pairing, **keywords)
    options = pycolmap.IncrementalPipelineOptions(random_seed=job["seed"], num_threads=job["threads"])
    options.mapper.random_seed = options.triangulation.random_seed = job["seed"]
    if known:
        options.ba_refine_focal_length = options.ba_refine_extra_params = False
    models = pycolmap.incremental_mapping(job["database"], job["images"], job["models"], options)
    if models:
        best = max(models.values(), key=lambda model: model.num_reg_images())
        Path(job["model"]).mkdir()
        best.write_binary(job["model"])
        write_json(Path(job["model"]) / QUALITY, {"models": len(models), **_quality(best)})


def _quality(model: Any) -> dict[str, Any]:
    """Return the reprojection error in pixels and z depths of what is seen; depth_range: percentiles 1 and 99."""
    points = {number: point.xyz for number, point in model.points3D.items()}
    depths: list[float] = []
    for image in (image for image in model.images.values() if image.has_pose):
        found = (points[point.point3D_id] for point in image.get_observation_points2D())
        depths += [float((image.cam_from_world() * place)[2]) for place in found]
    error = float(model.compute_mean_reprojection_error())
    seen = (statistics.median(depths), np.percentile(depths, [1, 99]).tolist()) if depths else (None, None)
    return {"points": len(points), "reprojection_px": error, "median_depth": seen[0], "depth_range": seen[1]}


if __name__ == "__main__":
    end_with(os.getppid())
    reconstruct(json.loads(Path(sys.argv[1]).read_text()))
