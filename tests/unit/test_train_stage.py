"""The training stage refuses, before it trains, what it could only find out at the end."""

import json
from pathlib import Path

import pytest

from novelview.config.compose import compose
from novelview.stages.cli import run_stage
from novelview.stages.train import train
from novelview.training.checkpoint import compare_depths

SMALL = [
    *("model=ptlvsm", "model.n_layer=1", "model.transformer.d=16", "model.transformer.d_head=8"),
    *(
        "model.dino.embed_dim=16",
        "model.dino.num_heads=2",
        "model.dino.depth=1",
        "model.dino.img_size=28",
        "model.patch_size=14",
        "model.dino.patch_size=14",
    ),
    *("views.image_size=28", "views.num_views=3", "views.num_target=1", "views.min_frame_dist=2", "train.steps=1"),
    *("train.batch_size=1", "runtime.progress=false", "runtime.wandb=disabled", "runtime.workers=0"),
]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, make_packed) -> Path:
    return make_packed(tmp_path_factory.mktemp("data"), {"scene": 8})


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("io.out={folder}", "is a folder"),
        ("io.log={folder}/file/train.csv", "is a file, not a folder"),
        ("io.init={folder}/gone.pt", "gone.pt: no such file; io.init"),
        ("io.init={folder}", "no such file; io.init"),
        ("io.packed={folder}/none", "manifest.json: no such file"),
    ],
)
def test_what_would_fail_at_the_end_fails_at_once(tmp_path: Path, packed: Path, capsys, override: str, words) -> None:
    (tmp_path / "file").write_text("")
    names = {"out": "m.safetensors", "log": "train.csv", "checkpoints": "checkpoints"}
    paths = [f"io.{key}={tmp_path / name}" for key, name in names.items()]
    status = run_stage("train", train, [*SMALL, f"io.packed={packed}", *paths, override.format(folder=tmp_path)])
    error = capsys.readouterr().err.strip()
    assert status == 2 and words in error and "\n" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("model", "seen", "warned"),
    [
        ("depthsplat", [3.0, 8.0], False),
        ("depthsplat", [0.5, 8.0], True),
        ("depthsplat", [3.0, 42.0], True),
        ("depthsplat", None, False),
        ("ptlvsm", [0.5, 42.0], False),
    ],
)
def test_scenes_outside_of_the_planes_are_warned_of(tmp_path: Path, caplog, model: str, seen, warned: bool) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"depth_range": seen} if seen else {}))
    planes = ["model.near=2", "model.far=10"] if model == "depthsplat" else []
    compare_depths(compose("train", [f"model={model}", f"io.packed={tmp_path}", *planes]))
    assert ("between" in caplog.text) == warned
    if warned:
        assert all(f"{value:.3g}" in caplog.text for value in (2, 10, *seen))
