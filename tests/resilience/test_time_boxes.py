"""Stages in time boxes: called again and again they end with the very bytes of a call without a box."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from test_resume import Training

from novelview.config.compose import compose
from novelview.stages.cli import run_stage
from novelview.stages.depth import depth
from novelview.stages.download import download
from novelview.stages.evaluate import evaluate
from novelview.stages.pointmaps import pointmaps
from novelview.stages.preprocess import preprocess
from novelview.stages.render import render
from novelview.stages.train import train as train_stage
from novelview.training.loop import train

TINIEST = "runtime.max_minutes=1e-9"
TWO = pytest.param(2, marks=pytest.mark.slow)
QUIET = ["runtime.device=cpu", "runtime.progress=false", "runtime.wandb=disabled"]
ROOMS = [
    *(
        "source=rooms",
        "source.train_scenes=5",
        "source.test_seen_scenes=2",
        "source.test_new_scenes=1",
        "source.twins=0",
    ),
    *("source.frames=12", "source.gaps=[6]", "source.height=36", "source.width=64", "source.chunk_bytes=20000"),
]
DEPTHSPLAT = """
model=depthsplat scale=demo phase=pretrain train.steps=1 train.warmup=0 train.batch_size=1 views.image_size=32
views.min_frame_dist=3 views.max_frame_dist=6 views.start_min_dist=3 views.start_max_dist=6
"""


def calls(stage: str, body: Callable, words: Sequence[str], box: str = TINIEST) -> int:
    """Call a stage in boxes until it has finished; return the number of calls."""
    for number in range(1, 200):
        status = run_stage(stage, body, [*words, *QUIET, box])
        if status == 0:
            return number
        assert status == 4
    raise AssertionError("no end")


def content(folder: Path, *patterns: str) -> dict[str, bytes]:
    """Return the files of a folder by name; hidden ones are what a stage left unfinished."""
    paths = [path for pattern in patterns or ("**/*",) for path in folder.glob(pattern) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def hidden(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Rooms, their packed store and exact pointmaps, made without boxes."""
    root = tmp_path_factory.mktemp("whole")
    assert run_stage("download", download, [*ROOMS, *QUIET, f"io.out={root}/raw"]) == 0
    assert run_stage("preprocess", preprocess, [*QUIET, f"io.raw={root}/raw", f"io.out={root}/packed"]) == 0
    return root


def io(root: Path, out: Path) -> list[str]:
    return [f"io.raw={root}/raw", f"io.packed={root}/packed", f"io.out={out}"]


@pytest.mark.parametrize("workers", [0, TWO])
def test_rooms(whole, tmp_path, workers) -> None:
    words = [*ROOMS, f"io.out={tmp_path}/raw", f"runtime.workers={workers}"]
    assert calls("download", download, words) == 9  # one room a call, and one that finishes
    assert content(tmp_path / "raw") == content(whole / "raw")
    assert not hidden(tmp_path)


def test_rooms_go_on_after_damage_to_what_was_made(whole, tmp_path) -> None:
    words = [*ROOMS, *QUIET, TINIEST, f"io.out={tmp_path}/raw"]
    for _ in range(7):
        assert run_stage("download", download, words) == 4
    chunk = sorted((tmp_path / ".raw.partial/train").glob("*.torch"))[1]
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"?")
    calls("download", download, words)
    assert content(tmp_path / "raw") == content(whole / "raw")


def test_other_rooms_begin_anew(whole, tmp_path) -> None:
    words = [*ROOMS, *QUIET, f"io.out={tmp_path}/raw"]
    assert run_stage("download", download, [*words, TINIEST, "source.seed=9"]) == 4
    assert run_stage("download", download, words) == 0
    assert content(tmp_path / "raw") == content(whole / "raw")


@pytest.mark.parametrize("workers", [0, TWO])
def test_packing(whole, tmp_path, workers) -> None:
    words = [f"io.raw={whole}/raw", f"io.out={tmp_path}/packed", f"runtime.workers={workers}"]
    chunks = len(list((whole / "raw").glob("*/*.torch")))
    assert 2 <= calls("preprocess", preprocess, words) <= chunks + 1
    assert content(tmp_path / "packed") == content(whole / "packed")


def test_pointmaps(whole, tmp_path) -> None:
    sized = ["views.image_size=24", "views.patch_size=8", "views.resize=centred"]
    assert run_stage("pointmaps", pointmaps, [*sized, *QUIET, *io(whole, tmp_path / "points")]) == 0
    assert calls("pointmaps", pointmaps, [*sized, *io(whole, tmp_path / "boxed")]) == 6
    assert content(tmp_path / "boxed") == content(tmp_path / "points")
    assert not hidden(tmp_path)


@pytest.fixture(scope="module")
def weights(whole, tmp_path_factory) -> Path:
    """Weights of a tiny model that takes poses."""
    folder = tmp_path_factory.mktemp("weights")
    paths = [f"io.packed={whole}/packed", f"io.out={folder}/w.safetensors", f"io.log={folder}/w.csv"]
    model = "model=ptlvsm model.n_layer=1 model.transformer.d=24 model.transformer.d_head=12 model.dino.embed_dim=24"
    views = "views.image_size=28 views.num_views=5 views.num_target=2 views.min_frame_dist=4 views.max_frame_dist=9"
    patches = "model.patch_size=14 model.dino.patch_size=14 model.dino.img_size=28"
    words = f"{model} model.dino.num_heads=2 {patches} model.dino.depth=0 {views} train.steps=1"
    words = [*words.split(), "train.batch_size=2", "train.warmup=0", *paths, f"io.checkpoints={folder}/c"]
    assert run_stage("train", train_stage, [*words, *QUIET, "scale=demo", "phase=pretrain"]) == 0
    return folder / "w.safetensors"


def test_evaluation(whole, weights, tmp_path) -> None:
    words = [f"io.weights={weights}", "eval.splits=[full,gap6]", "eval.batch_size=1", "eval.bootstrap=20"]
    words = [*words, "eval.gallery=3", "eval.video_scenes=1", "eval.video_frames=2"]
    assert run_stage("evaluate", evaluate, [*words, *QUIET, *io(whole, tmp_path / "plain")]) == 0
    assert calls("evaluate", evaluate, [*words, *io(whole, tmp_path / "boxed")]) > 2
    plain, boxed = (content(tmp_path / name) for name in ("plain", "boxed"))
    summaries = [json.loads(found.pop("summary.json")) for found in (plain, boxed)]
    assert plain == boxed and {"rows.csv", "gallery.safetensors", "metrics.json"} <= set(plain)
    assert all(summary.pop("seconds") >= 0 for summary in summaries) and summaries[0] == summaries[1]
    assert not hidden(tmp_path)


def test_an_evaluation_of_other_weights_uses_nothing_of_it(whole, weights, tmp_path) -> None:
    words = [f"io.weights={weights}", "eval.splits=[full,gap6]", "eval.batch_size=1", "eval.bootstrap=20"]
    words = [*words, "eval.video_scenes=0", *QUIET, *io(whole, tmp_path / "out")]
    assert run_stage("evaluate", evaluate, [*words, TINIEST]) == 4
    units = tmp_path / ".out.units"
    stamp = (units / "stamp").read_text()
    assert run_stage("evaluate", evaluate, [*words, TINIEST, "eval.bootstrap=21"]) == 4
    assert (units / "stamp").read_text() != stamp and len(list(units.iterdir())) == 2


def test_rendering(whole, weights, tmp_path) -> None:
    words = [f"io.weights={weights}", f"io.packed={whole}/packed", "views=2", "frames=5", "chunk=2", "split=test"]
    words = [*words, "path=interpolate"]
    assert run_stage("render", render, [*words, *QUIET, f"io.out={tmp_path}/plain.mp4"]) == 0
    assert calls("render", render, [*words, f"io.out={tmp_path}/boxed.mp4"]) == 4
    assert (tmp_path / "plain.mp4").read_bytes() == (tmp_path / "boxed.mp4").read_bytes()
    assert not hidden(tmp_path)


def test_depth_maps(whole, tmp_path) -> None:
    paths = [f"io.packed={whole}/packed", f"io.out={tmp_path}/d.safetensors", f"io.log={tmp_path}/d.csv"]
    words = [*DEPTHSPLAT.split(), *paths, f"io.checkpoints={tmp_path}/c", *QUIET]
    assert run_stage("train", train_stage, words) == 0
    words = [f"io.weights={tmp_path}/d.safetensors", f"io.packed={whole}/packed", "split=train", "views=2", "scenes=3"]
    assert run_stage("depth", depth, [*words, *QUIET, f"io.out={tmp_path}/plain"]) == 0
    assert calls("depth", depth, [*words, f"io.out={tmp_path}/boxed"]) == 4
    assert content(tmp_path / "boxed") == content(tmp_path / "plain")
    assert not hidden(tmp_path)


def boxed_training(training: Training, box: str) -> int:
    """Train in boxes, each call in this process; return the number of calls."""
    for number in range(1, 100):
        status = train(compose("train", [*training.overrides, box]))
        if status == 0:
            return number
        assert status == 4 and not (training.folder / "model.safetensors").exists()
    raise AssertionError("no end")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, packed) -> Training:
    training = Training(tmp_path_factory.mktemp("undisturbed"), packed, steps=12)
    training.here()
    return training


@pytest.mark.parametrize(
    "minutes", ["1e-9", *(pytest.param(value, marks=pytest.mark.slow) for value in ("0.002", "0.004"))]
)
def test_training_in_boxes_ends_with_the_same_bytes(tmp_path, packed, undisturbed, minutes) -> None:
    training = Training(tmp_path, packed, steps=12)
    count = boxed_training(training, f"runtime.max_minutes={minutes}")
    assert count == 13 or minutes != "1e-9"  # a step a call
    assert training.weights() == undisturbed.weights() and training.rows() == undisturbed.rows()


def test_training_says_what_ended_it(tmp_path, packed) -> None:
    training = Training(tmp_path, packed, TINIEST, steps=12)
    process = training.start()
    assert process.wait(timeout=300) == 4
    said = training.errors.read_text()
    assert "stopped by its time box after step 1, state saved in" in said and "Traceback" not in said


@pytest.mark.slow
def test_two_processes_in_boxes_end_with_the_same_bytes(tmp_path, packed) -> None:
    whole = Training(tmp_path / "whole", packed, steps=5)
    whole.command(processes=2)
    training = Training(tmp_path / "boxed", packed, TINIEST, steps=5)
    for _ in range(5):
        process = training.start(processes=2)
        assert process.wait(timeout=300) != 0, training.errors.read_text()
        assert "stopped by its time box after step" in training.errors.read_text()
    training.command(processes=2)
    assert training.weights() == whole.weights() and training.rows() == whole.rows()
    shutil.rmtree(tmp_path / "boxed")
