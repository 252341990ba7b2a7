"""A small raw data set with known cameras, and estimators that fail in every way, for the tests of stage `poses`."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from novelview.cameras.align import Similarity
from novelview.cameras.poses import quat_to_mat
from novelview.config.sources import ColmapEstimator
from novelview.config.stages import PosesStage
from novelview.errors import DataError
from novelview.files import file_entries, write_json
from novelview.scenes.chunks import ChunkScene, ChunkWriter
from novelview.scenes.estimation.estimate import Estimate, given_cameras
from novelview.scenes.imports.reconstruct import Stopped

FRAMES = 8
QUALITY = {"reprojection_px": 0.5, "depth_range": [1.0, 6.0]}


def picture(seed: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (3, 4, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((64, 36)).save(stream, "JPEG")
    return stream.getvalue()


def scene(key: str, seed: int = 0) -> ChunkScene:
    generator = torch.Generator().manual_seed(seed)
    w2c = torch.eye(4).repeat(FRAMES, 1, 1)
    turns = torch.cat([0.2 * torch.randn(FRAMES, 3, generator=generator), torch.ones(FRAMES, 1)], dim=1)
    w2c[:, :3, :3], w2c[:, :3, 3] = quat_to_mat(turns), torch.randn(FRAMES, 3, generator=generator)
    head = torch.tensor([0.9, 1.6, 0.5, 0.5, 0.0, 0.0]).expand(FRAMES, 6)
    cameras = torch.cat([head, w2c[:, :3].flatten(1)], dim=1)
    return ChunkScene(key, "", torch.arange(FRAMES), cameras, [picture(10 * seed + row) for row in range(FRAMES)])


def raw_data(folder: Path, keys: list[str]) -> Path:
    """Write a data set of test scenes `keys` in chunks of two, one training scene, two indices and scenes.json."""
    with ChunkWriter(folder / "train") as writer:
        writer.add(scene("learnt", 99))
    with ChunkWriter(folder / "test", 2 * len(b"".join(scene("x").images)) - 1) as writer:
        for seed, key in enumerate(keys):
            writer.add(scene(key, seed))
    near = {key: {"context": [0, 3], "target": [1, 2], "overlap": 0.5} for key in keys}
    wide = {key: {"context": [0, 7], "target": [3, 5], "overlap": 0.1} for key in keys[1:]} | {keys[0]: None}
    for name, index in (("near", near), ("wide", wide)):
        write_json(folder / "indices" / f"{name}.json", index)
    write_json(folder / "scenes.json", {key: {"set": "seen" if row % 2 else "new"} for row, key in enumerate(keys)})
    write_json(folder / "manifest.json", {"files": file_entries(folder), "source": {}})
    return folder


def moved(w2c: torch.Tensor, scale: float = 3.0) -> torch.Tensor:
    """Return cameras in another world, `scale` times as large."""
    turn = quat_to_mat(torch.tensor([0.3, -0.2, 0.5, 0.8], dtype=torch.float64))
    similarity = Similarity(torch.tensor(scale, dtype=torch.float64), turn, torch.tensor([1.0, 2.0, -3.0]).double())
    return torch.linalg.inv(similarity.cameras(torch.linalg.inv(w2c)))


class Fake:
    """Finds the true cameras in another world, unless the scene's key says otherwise."""

    name = "fake"
    alone = False

    def __init__(self) -> None:
        self.calls: list[str] = []

    def estimate(self, scene: ChunkScene, frames: list[int], work: Path, log: Path) -> Estimate:
        self.calls.append(scene.key)
        w2c, intrinsics = given_cameras(scene)
        found = Estimate(list(frames), moved(w2c[frames]), 1.1 * intrinsics[frames], QUALITY)
        return self.spoilt(scene.key, found)

    @staticmethod
    def spoilt(key: str, found: Estimate) -> Estimate:
        if key == "none":
            raise DataError("none of 8 frames could be registered")
        if key == "boom":
            raise RuntimeError("wires\ncrossed")
        if key == "killed":
            raise Stopped("pycolmap was killed by SIGKILL; see log")
        if key == "empty":
            return Estimate([], found.w2c[:0], found.intrinsics[:0])
        if key == "part":
            kept = [0, 1, 2, 3, 6]
            return Estimate(kept, found.w2c[kept], found.intrinsics[kept])
        if key == "nan":
            found.w2c[2, 0, 0] = float("nan")
        if key == "flat":
            found.intrinsics[0, 0] = 0
        if key == "stranger":
            found.frames[0] = 99
        if key == "still":
            found.w2c[:] = found.w2c[0]
        return found


def stage(raw: Path, out: Path, **changes: Any) -> PosesStage:
    settings = {
        "dataset": "made",
        "max_failed": 2,
        "poses": ColmapEstimator(),
        "io": {"raw": str(raw), "out": str(out)},
        **changes,
    }
    cfg = PosesStage(**settings)
    cfg.runtime.progress = False
    return cfg
