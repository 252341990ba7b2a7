"""Structure from motion on a scene's frames, in a process of its own."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from novelview.config.sources import ColmapEstimator
from novelview.errors import DataError
from novelview.files import read_json
from novelview.scenes.chunks import ChunkScene
from novelview.scenes.estimation.estimate import Estimate, given_cameras
from novelview.scenes.imports.colmap import read_model
from novelview.scenes.imports.reconstruct import QUALITY, run_apart

FEWEST = 3
PNG = b"\x89PNG"


class Colmap:
    """pycolmap on one thread a scene; the same frames, seed and version of pycolmap give the same cameras."""

    name = "colmap"
    alone = False

    def __init__(self, cfg: ColmapEstimator) -> None:
        self.cfg = cfg

    def estimate(self, scene: ChunkScene, frames: list[int], work: Path, log: Path) -> Estimate:
        """Return the cameras of the frames in the largest model; raises DataError where there is none."""
        if len(frames) < FEWEST:
            raise DataError(f"{len(frames)} frames, structure from motion needs at least {FEWEST}")
        names = _lay_out(scene, frames, work / "images")
        job = {
            "images": str(work / "images"),
            "names": list(names),
            "camera_model": self.cfg.camera_model,
            "single_camera": True,
            "seed": self.cfg.seed,
            "matcher": self.cfg.matcher,
            "overlap": self.cfg.overlap,
            "max_features": self.cfg.max_features,
            "camera_params": self._known(scene, frames[0], work / "images" / next(iter(names))),
        }
        model = run_apart(job, work, log, threads=1, seconds=self.cfg.seconds)
        if not model.is_dir():
            raise DataError(f"none of {len(frames)} frames could be registered")
        return _read(model, names)

    def _known(self, scene: ChunkScene, frame: int, picture: Path) -> str:
        """Return the given lens as pycolmap takes it, or nothing where it is to be estimated."""
        if self.cfg.intrinsics == "estimate":
            return ""
        with Image.open(picture) as image:
            width, height = image.size
        fx, fy, cx, cy = (given_cameras(scene)[1][frame] * torch.tensor([width, height] * 2)).tolist()
        focal = [(fx + fy) / 2] if self.cfg.camera_model == "SIMPLE_PINHOLE" else [fx, fy]
        return ",".join(map(str, [*focal, cx, cy]))


def _lay_out(scene: ChunkScene, frames: list[int], folder: Path) -> dict[str, int]:
    """Write the frames' own bytes as files; return file name -> frame number, in order."""
    folder.mkdir()
    names: dict[str, int] = {}
    for frame in frames:
        content = scene.images[frame].numpy().tobytes()
        name = f"{frame:06d}{'.png' if content.startswith(PNG) else '.jpg'}"
        (folder / name).write_bytes(content)
        names[name] = frame
    return names


def _read(model: Path, names: dict[str, int]) -> Estimate:
    lenses, poses = read_model(model)
    poses.sort(key=lambda pose: pose.name)
    return Estimate(
        [names[pose.name] for pose in poses],
        torch.from_numpy(np.stack([pose.w2c for pose in poses])).double(),
        torch.tensor([lenses[pose.camera].normalised() for pose in poses], dtype=torch.float64),
        read_json(model / QUALITY),
    )
