"""wandb beside a training: one run under one id, curves and pictures, no secrets, and never the end of a training."""

import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from packed_stores import MakePacked

from novelview.config.compose import STAGES, compose, conf_dir
from novelview.config.digest import digest
from novelview.scenes.batch import Batch, Views
from novelview.stages.cli import run_stage
from novelview.stages.train import train
from novelview.training import watch
from novelview.training.checkpoint import identity
from novelview.training.watch import run_id, side_by_side, to_bytes

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
    *("views.image_size=28", "views.num_views=3", "views.num_target=1", "views.min_frame_dist=2", "train.batch_size=1"),
    *("train.steps=4", "train.warmup=1", "runtime.log_every=1", "runtime.progress=false", "runtime.workers=0"),
    *("runtime.device=cpu", "runtime.checkpoint_seconds=0"),
]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, make_packed: MakePacked) -> Path:
    return make_packed(tmp_path_factory.mktemp("data"), {"scene": 8})


def words(folder: Path, packed: Path, *more: str) -> list[str]:
    names = {"out": "model.safetensors", "log": "train.csv", "checkpoints": "checkpoints"}
    return [*SMALL, f"io.packed={packed}", *(f"io.{key}={folder / name}" for key, name in names.items()), *more]


def history(run: Path) -> list[dict[str, Any]]:
    from wandb.proto import wandb_internal_pb2

    rows = []
    for data in records(next(run.glob("*.wandb")).read_bytes()):
        record = wandb_internal_pb2.Record.FromString(data)
        if record.HasField("history"):
            items = record.history.item
            rows.append({item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items})
    return rows


def records(content: bytes) -> Iterator[bytes]:
    """Read LevelDB's log format, after a head of 7 bytes: blocks of 32 KiB, records whole (1) or in parts (2, 3, 4)."""
    at, parts = 7, b""
    while at + 7 <= len(content):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""


def test_a_resumed_training_continues_the_run(tmp_path: Path, packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped after two steps and called again: two offline parts of one run, which together hold every step once."""
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    given = words(tmp_path, packed, "runtime.wandb=offline", "runtime.wandb_pictures=2")
    cfg = compose("train", given)
    from novelview.training.loop import Run

    keep = Run._save_if_due
    stop = lambda self: keep(self) or self.done == 2  # noqa: E731
    monkeypatch.setattr(Run, "_save_if_due", stop)
    assert run_stage("train", train, given) == 3
    monkeypatch.setattr(Run, "_save_if_due", keep)
    assert run_stage("train", train, given) == 0

    name = run_id(cfg, identity(cfg))
    assert name.startswith(digest(cfg)) and re.fullmatch(r"[0-9a-f]{12}-[0-9a-f]{8}", name)
    parts = sorted((tmp_path / "checkpoints/wandb").glob("offline-run-*"))
    assert len(parts) == 2 and all(part.name.endswith(f"-{name}") for part in parts)
    rows = [row for part in parts for row in history(part)]
    steps = [row["step"] for row in rows if "loss" in row]
    assert steps == [1.0, 2.0, 3.0, 4.0, 5.0]  # and the reference's extra iteration
    assert all({"psnr", "lr", "grad_norm"} <= row.keys() for row in rows if "loss" in row)
    pictures = [row for row in rows if any(key.startswith("pictures") for key in row)]
    assert [row["step"] for row in pictures] == [1.0, 3.0, 5.0]
    assert len([path for part in parts for path in part.rglob("*.png")]) == 3
    content = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"x" * 40 not in content


def test_other_data_under_the_same_configuration_is_another_run(tmp_path: Path, packed: Path, make_packed: MakePacked):
    other = make_packed(tmp_path, {"scene": 9})
    one, two = (compose("train", words(tmp_path, place)) for place in (packed, other))
    assert digest(one) == digest(two) and run_id(one, identity(one)) != run_id(two, identity(two))


class Broken:
    """A run whose every call fails."""

    def log(self, *_: Any) -> None:
        raise ConnectionError("gone\naway")

    finish = log


def test_a_run_that_fails_is_told_once_and_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    tracker = watch.Tracker(Broken())
    for step in range(3):
        tracker.row({"step": float(step)})
        tracker.picture(step, np.zeros((2, 2, 3), np.uint8), "nothing")
    tracker.finish()
    assert [record.message for record in caplog.records] == ["wandb fails (gone away); the training goes on without it"]


def test_a_run_that_cannot_be_opened_at_all_is_none(tmp_path, monkeypatch, caplog):
    def refuse(**_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wandb.init", refuse)
    assert watch.open_tracker("online", "aa", tmp_path, "name", {}).run is None
    assert "cannot go online" in caplog.text and "cannot go offline" in caplog.text


@pytest.mark.slow
def test_online_without_a_network_the_training_finishes(tmp_path: Path, packed: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(watch, "PATIENCE", 5)
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:1")
    assert run_stage("train", train, words(tmp_path, packed, "runtime.wandb=online")) == 0
    (part,) = (tmp_path / "checkpoints/wandb").glob("offline-run-*")
    assert len([row for row in history(part) if "loss" in row]) == 5


def test_no_configuration_has_a_place_for_a_secret() -> None:
    """No key of any stage, file of conf/, or value that enters a digest or a wandb run can hold one."""
    secret = re.compile(r"(^|[._])(api_?key|token|password|secret|credentials?)s?($|[._:])", re.IGNORECASE)
    for stage in STAGES:
        keys = _keys(_schema(STAGES[stage]))
        assert keys and not [key for key in keys if secret.search(key)], stage
    for path in conf_dir().rglob("*.yaml"):
        found = [
            line for line in path.read_text().splitlines() if secret.search(line.partition("#")[0].partition(":")[0])
        ]
        assert not found, path
    assert not re.search(r"\bhf_[A-Za-z0-9]{20,}|\b[0-9a-f]{40}\b(?!/)", _without_revisions())


def _schema(node: Any) -> dict[str, Any]:
    from omegaconf import OmegaConf

    return OmegaConf.to_container(OmegaConf.structured(node))


def _keys(node: Any, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return [prefix]
    return [key for name, value in node.items() for key in _keys(value, f"{prefix}.{name}" if prefix else str(name))]


def _without_revisions() -> str:
    text = "\n".join(path.read_text() for path in sorted(conf_dir().rglob("*.yaml")))
    return re.sub(r"(revision: |@)[0-9a-f]{40}", "", text)


# --- pictures


def test_the_picture_shows_contexts_target_and_render() -> None:
    images = torch.rand(2, 6, 3, 4, 5)
    views = Views(images, torch.eye(4).expand(2, 6, 4, 4), torch.ones(2, 6, 4))
    render = torch.rand(2, 6, 3, 4, 5, dtype=torch.bfloat16, requires_grad=True)
    picture = side_by_side(Batch(["a", "b"], views, views), render)
    assert picture.shape == (3, 4, 6 * 5) and not picture.requires_grad
    assert torch.equal(picture[..., :5], images[0, 0]) and torch.equal(picture[..., 20:25], images[0, 0])
    assert torch.equal(picture[..., 25:], render[0, 0].detach().float())


def test_bytes_are_clamped_and_rounded() -> None:
    values = torch.tensor([-1.0, 0.5, 2.0]).reshape(3, 1, 1)
    assert to_bytes(values).tolist() == [[[0, 128, 255]]]


def test_without_wandb_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    run = SimpleNamespace(log=lambda row: None, finish=lambda: None)
    watch.Tracker(run).row({"step": 1.0})
    watch.Tracker().finish()
