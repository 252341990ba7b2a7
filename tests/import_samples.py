"""Small collections in every importable format, for the tests of the importers."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from novelview.config.stages import DownloadStage
from novelview.scenes.imports.reconstruct import QUALITY
from novelview.stages.download import download

DEPTH_RANGE = [1.5, 4.0]


def look_at(centre: np.ndarray, target: np.ndarray) -> np.ndarray:
    """OpenCV camera-to-world at `centre` looking at `target`, world y down."""
    forward = (target - centre) / np.linalg.norm(target - centre)
    right = np.cross([0.0, 1.0, 0.0], forward)
    right /= np.linalg.norm(right)
    matrix = np.eye(4)
    matrix[:3] = np.stack([right, np.cross(forward, right), forward, centre], 1)
    return matrix


def poses(count: int) -> list[np.ndarray]:
    return [look_at(np.array([0.3 * i, -0.1 * i, -3.0]), np.array([0.1 * i, 0.0, 0.0])) for i in range(count)]


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (64, 48), mode: str = "RGB", **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], len(mode))
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, shape, dtype=np.uint8), mode=None).save(
        path, **options
    )


GL = np.diag([1.0, -1.0, -1.0, 1.0])


def nerf(folder: Path, count: int = 8, frame: dict | None = None, **top) -> Path:
    """Write a transforms.json with pictures img1.png, img2.png, ... in reverse order."""
    entries = []
    for row in reversed(range(count)):
        picture(folder / "images" / f"img{row + 1}.png", row)
        matrix = (poses(count)[row] @ GL).tolist()
        entries.append({"file_path": f"images/img{row + 1}.png", "transform_matrix": matrix, **(frame or {})})
    content = {"fl_x": 50.0, "fl_y": 55.0, "cx": 30.0, "cy": 25.0, "w": 64, "h": 48, "frames": entries, **top}
    (folder / "transforms.json").write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    return folder


def lact(folder: Path, count: int = 8, **frame) -> Path:
    cameras = []
    for row, c2w in enumerate(poses(count)):
        picture(folder / "renderings" / f"{row:08d}.png", row, mode="RGBA")
        entry = {"w": 1, "h": 1, "fx": 50.0, "fy": 55.0, "cx": 30.0, "cy": 25.0, "w2c": np.linalg.inv(c2w).tolist()}
        cameras.append({**entry, "file_path": f"renderings/{row:08d}.png", **frame})
    (folder / "opencv_cameras.json").write_text(json.dumps(cameras))
    return folder


def run(source, path: Path, out: Path, dataset: str = "mine") -> Path:
    config = DownloadStage(source=source, path=str(path), dataset=dataset, io={"out": str(out)})
    config.runtime.progress = False
    download(config)
    return out


def fake_model(cameras: str, keep=lambda row: True, lens=()):
    """Stand in for pycolmap: write a text model with every photograph that `keep` accepts."""

    def write(job, work, *_):
        names, model = job["names"], work / "model"
        model.mkdir()
        (model / "cameras.txt").write_text(cameras)
        lines = []
        for row, name in enumerate(names):
            if keep(row):
                w2c = np.linalg.inv(poses(len(names))[row])
                x, y, z, w = Rotation.from_matrix(w2c[:3, :3]).as_quat()
                lines += [
                    f"{row + 1} {w} {x} {y} {z} {' '.join(map(str, w2c[:3, 3]))} {lens[row] if lens else 1} {name}",
                    "",
                ]
        (model / "images.txt").write_text("\n".join(lines) + "\n")
        (model / QUALITY).write_text(json.dumps({"depth_range": DEPTH_RANGE}))
        return model

    return write
