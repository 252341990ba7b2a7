"""A seeded fuzz over the readers of JSON, YAML and CSV: what is damaged is read as it is, or named in one line."""

import json
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from import_samples import lact, nerf
from synthetic_results import write_evaluation

from novelview.config.compose import compose, read_config_file, write_config
from novelview.config.digest import digest_of, resolved
from novelview.config.sources import OpencvCamerasSource, TransformsSource
from novelview.errors import NovelviewError
from novelview.figures.results import Curve, read_evaluation
from novelview.scenes.chunks import read_raw
from novelview.scenes.imports.camera_lists import load_opencv_cameras, load_transforms
from novelview.scenes.store import PackedStore
from novelview.scenes.views import EvalEntry, load_index, save_index
from novelview.stages.evaluate import _sets

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
}


@pytest.mark.parametrize("reader", READERS)
def test_damage_is_one_line_with_the_file(reader: str, tmp_path: Path) -> None:
    make, read = READERS[reader]
    path = make(tmp_path)
    whole = path.read_text()
    read(path)
    for seed in range(500):
        draws = random.Random(seed)
        is_json = path.suffix == ".json"
        path.write_bytes(damaged(whole, draws) if is_json else bytes_of(whole, draws))
        try:
            read(path)
        except NovelviewError as error:
            line = str(error)
            assert "\n" not in line and (path.name in line or path.parent.name in line), (seed, line)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {path.read_bytes()[:2000]!r}") from error


def bytes_of(text: str, draws: random.Random) -> bytes:
    """Return a text with bytes changed, cells replaced, or its end missing."""
    content = bytearray(text.encode())
    for _ in range(draws.randrange(1, 4)):
        content[draws.randrange(len(content))] = draws.choice([0, 10, 44, 45, 57, 58, 91, 123, 0xFF])
    words = [b"1e999", b"9" * 400, b"null", b"[", b"\xff\xfe", b""]
    at = draws.randrange(len(content))
    return bytes(content[:at]) + draws.choice(words) + (bytes(content[at:]) if draws.random() < 0.7 else b"")
