"""A seeded fuzz over the readers of JSON, YAML and CSV: what is damaged is read as it is, or named in one line."""

import json
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from import_samples import lact, nerf, picture
from synthetic_results import write_evaluation
from test_photographs import colmap_model, film
from tiny_models import config, model_of

from novelview.cameras.given import read_path
from novelview.config.compose import compose, read_config_file, write_config
from novelview.config.digest import digest_of, resolved
from novelview.config.schema import ViewsConfig
from novelview.config.sources import OpencvCamerasSource, TransformsSource
from novelview.downloads.registry import read_registry
from novelview.errors import NovelviewError
from novelview.evaluation.scores import read_rows
from novelview.figures.pictures import read_gallery
from novelview.figures.plots import COSTS, read_costs, read_paths
from novelview.figures.results import Curve, read_evaluation
from novelview.models.published import load_published
from novelview.models.registry import load_weights, save_weights
from novelview.scenes.chunks import read_chunk, read_raw
from novelview.scenes.imports.camera_lists import load_opencv_cameras, load_transforms
from novelview.scenes.imports.colmap import depth_range, read_model
from novelview.scenes.imports.scene import read_picture
from novelview.scenes.imports.video import as_photographs
from novelview.scenes.pointmaps import Pointmaps, write_pointmaps
from novelview.scenes.store import PackedStore
from novelview.scenes.views import EvalEntry, load_index, save_index
from novelview.stages.evaluate import _sets
from novelview.timebox import TimeBox

sys.path.append(str(Path(__file__).parents[1] / "resilience"))
from data_samples import pack, write_raw

HUGE = "\0huge", "\0longer"  # stand for whole numbers of 400 and of 5,000 digits
WEIRD = [None, True, -1, 0, 1e308, "", "x", "nan", [], {}, [[]], [1, [2, [3]]], {"a": {"b": None}}, float("nan"), *HUGE]


def places(node: Any, path: tuple = ()) -> Iterator[tuple]:
    yield path
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from places(value, (*path, key))


def damaged(text: str, draws: random.Random) -> bytes:
    """Return a JSON text with a value replaced or removed, or with its bytes cut, flipped, or nested without end."""
    kind = draws.choice(("value", "value", "value", "value", "gone", "cut", "flip", "deep"))
    content = text.encode()
    if kind == "cut":
        return content[: draws.randrange(len(content))]
    if kind == "flip":
        at = draws.randrange(len(content))
        return content[:at] + bytes([content[at] ^ (1 << draws.randrange(8))]) + content[at + 1 :]
    if kind == "deep":
        return b"[" * 100_000
    node = json.loads(text)
    path = draws.choice([*places(node)])
    if not path:
        return json.dumps(draws.choice(WEIRD[:-2])).encode()
    parent = node
    for key in path[:-1]:
        parent = parent[key]
    if kind == "gone":
        del parent[path[-1]]
    else:
        parent[path[-1]] = draws.choice(WEIRD)
    text = json.dumps(node)
    return text.replace('"\\u0000huge"', "7" * 400).replace('"\\u0000longer"', "7" * 5000).encode()


def train_log(folder: Path) -> Path:
    (folder / "train.csv").write_text("step,loss,mse,psnr,lr,grad_norm,skipped,seconds\n1,0.5,0.1,10,0.1,1,0,2.5\n")
    return folder / "train.csv"


def configuration(folder: Path) -> Path:
    config = compose("preprocess", ["dataset=rooms"], without_io=True)
    write_config(folder / "config.yaml", "preprocess", resolved(config), digest_of(resolved(config)), config.runtime)
    return folder / "config.yaml"


def index(folder: Path) -> Path:
    save_index(folder / "i.json", [EvalEntry("a", (0, 3), (1, 2), 0.5), EvalEntry("b", (0, 1), (2,))])
    return folder / "i.json"


def sets(folder: Path) -> Path:
    (folder / "scenes.json").write_text(json.dumps({"a": {"set": "seen"}, "b": {"set": "new"}}))
    return folder / "scenes.json"


def packed(folder: Path) -> Path:
    pack(write_raw(folder / "raw", 2, 3), folder / "packed")
    return folder / "packed" / "manifest.json"


def summary(folder: Path) -> Path:
    write_evaluation(folder, "uplvsm", 28)
    return folder / "summary.json"


def opened(path: Path) -> object:
    store = PackedStore(path.parent / "train")
    return [store.chunks, [store.jpeg(scene, 0) for scene in store.scenes]]


def cameras(folder: Path, nerfstudio: bool = False) -> Path:
    lens = {"fx": 30.5, "fy": 31, "cx": 21, "cy": 14}
    ours = {"width": 42, "height": 28, "fps": 30, "cameras": [{"c2w": np.eye(4).tolist(), **lens}] * 2}
    camera = {"camera_to_world": np.eye(4).flatten().tolist(), "fov": 50.0, "aspect": 1.5}
    theirs = {"camera_type": "perspective", "render_width": 42, "render_height": 28, "camera_path": [camera] * 2}
    (folder / "path.json").write_text(json.dumps(theirs if nerfstudio else ours))
    return folder / "path.json"


def summary_beside(name: str) -> Callable[[Path], Path]:
    return lambda folder: summary(folder).with_name(name)


def costs(folder: Path) -> Path:
    columns = ["model", "resolution", "views", *COSTS]
    row = ["lact", "28x42", "2", *("0.5" for _ in COSTS)]
    (folder / "latency.csv").write_text(",".join(columns) + "\n" + ",".join(row) + "\n")
    return folder / "latency.csv"


def pointmaps(folder: Path) -> Path:
    def teach(scene: str, frames: list[int]) -> torch.Tensor:
        return torch.zeros(len(frames), 3, 4, 4)

    write_pointmaps(folder / "points", "exact", ViewsConfig(), [("a", [0, 1])], teach, "stamp", TimeBox())
    return folder / "points" / "manifest.json"


def registry(folder: Path) -> Path:
    facts = {"purpose": "p", "path": "p/x.pt", "licence": "MIT", "citation": "c", "url": "https://example.org/x.pt"}
    (folder / "registry.yaml").write_text(yaml.safe_dump({"x": facts, "y": facts | {"sha256": "00", "about_mb": 3}}))
    return folder / "registry.yaml"


def weights(folder: Path) -> Path:
    save_weights(folder / "w.safetensors", model_of("ptlvsm"), {"model": asdict(config("ptlvsm"))})
    return folder / "w.safetensors"


def published(folder: Path) -> Path:
    torch.save({"model": dict(model_of("ptlvsm").state_dict())}, folder / "w.pt")
    return folder / "w.pt"


def model(folder: Path, name: str) -> Path:
    colmap_model(folder / "m", [f"{row}.jpg" for row in range(3)], 5, binary=name.endswith("bin"))
    return folder / "m" / name


def depths_of(path: Path) -> object:
    return depth_range(path.parent, read_model(path.parent)[1])


def photograph(folder: Path) -> Path:
    picture(folder / "a.jpg", 0)
    return folder / "a.jpg"


def drawn(path: Path) -> object:
    with as_photographs(path, 3) as folder:
        return [item.name for item in folder.iterdir()]


READERS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], object]]] = {
    "transforms": (
        lambda folder: nerf(folder, 4, k1=0.1) / "transforms.json",
        lambda path: load_transforms(path, TransformsSource()),
    ),
    "opencv_cameras": (
        lambda folder: lact(folder, 3) / "opencv_cameras.json",
        lambda path: load_opencv_cameras(path, OpencvCamerasSource()),
    ),
    "raw manifest": (lambda folder: write_raw(folder, 2, 2) / "manifest.json", lambda path: read_raw(path.parent)),
    "packed manifest": (packed, opened),
    "index": (index, load_index),
    "sets": (sets, _sets),
    "summary": (summary, lambda path: read_evaluation(path.parent)),
    "configuration": (configuration, lambda path: read_config_file("preprocess", path, ["io.raw=a", "io.out=b"])),
    "training log": (train_log, Curve),
    "camera path": (cameras, lambda path: read_path(path, 28, 42)),
    "nerfstudio's camera path": (lambda folder: cameras(folder, nerfstudio=True), lambda path: read_path(path, 28, 42)),
    "estimated poses": (summary_beside("poses.json"), lambda path: read_paths(read_evaluation(path.parent))),
    "scores": (summary_beside("rows.csv"), read_rows),
    "gallery": (summary_beside("gallery.safetensors"), lambda path: read_gallery(read_evaluation(path.parent))),
    "costs": (costs, read_costs),
    "pointmaps": (pointmaps, lambda path: Pointmaps(path.parent, ViewsConfig(), "exact").points("a", [0])),
    "registry": (registry, read_registry),
    "weights": (weights, load_weights),
    "published weights": (published, lambda path: load_published(path, model_of("ptlvsm"))),
    "chunk": (lambda folder: write_raw(folder, 1, 2) / "train/000000.torch", read_chunk),
    "index of a store": (
        lambda folder: packed(folder).parent / "train/index.safetensors",
        lambda path: opened(path.parent),
    ),
    "COLMAP cameras": (lambda folder: model(folder, "cameras.bin"), lambda path: read_model(path.parent)),
    "COLMAP images": (lambda folder: model(folder, "images.bin"), lambda path: read_model(path.parent)),
    "COLMAP points": (lambda folder: model(folder, "points3D.bin"), depths_of),
    "COLMAP text": (lambda folder: model(folder, "images.txt"), lambda path: read_model(path.parent)),
    "photograph": (photograph, lambda path: read_picture(path, True, 0)),
    "video": (lambda folder: film(folder / "a.mp4", 12), lambda path: drawn(path)),
}
SLOW = {
    "weights",
    "published weights",
    "video",
    "gallery",
    "packed manifest",
    "index of a store",
}  # fewer cases of these


@pytest.mark.parametrize("cases", [60, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("reader", READERS)
def test_damage_is_one_line_with_the_file(reader: str, cases: int, tmp_path: Path) -> None:
    make, read = READERS[reader]
    path = make(tmp_path)
    whole = path.read_bytes()
    read(path)
    for seed in range(cases // 4 if reader in SLOW else cases):
        draws = random.Random(seed)
        is_json = path.suffix == ".json"
        path.write_bytes(damaged(whole.decode(), draws) if is_json else bytes_of(whole, draws))
        try:
            read(path)
        except NovelviewError as error:
            line = str(error)
            assert "\n" not in line and (path.name in line or path.parent.name in line), (seed, line)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {path.read_bytes()[:2000]!r}") from error


def bytes_of(whole: bytes, draws: random.Random) -> bytes:
    """Return a file with bytes changed, cells replaced, or its end missing."""
    content = bytearray(whole)
    for _ in range(draws.randrange(1, 4)):
        content[draws.randrange(len(content))] = draws.choice([0, 10, 44, 45, 57, 58, 91, 123, 0xFF])
    words = [b"1e999", b"9" * 400, b"null", b"[", b"\xff\xfe", b""]
    at = draws.randrange(len(content))
    return bytes(content[:at]) + draws.choice(words) + (bytes(content[at:]) if draws.random() < 0.7 else b"")
