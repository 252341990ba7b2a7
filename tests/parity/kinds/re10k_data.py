"""Chunk to packed store to samples, against the reference's processed metadata, pictures and data set items."""

import hashlib
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from novelview.config.schema import PackConfig, ViewsConfig
from novelview.scenes.batch import Sample
from novelview.scenes.chunks import ChunkWriter, read_chunk
from novelview.scenes.dataset import EvalSet, TrainSet
from novelview.scenes.pack import pack_chunks
from novelview.scenes.store import PackedStore
from novelview.scenes.views import known_entries, load_index

MEAN_ATOL = 0.05  # of 255: another libjpeg may decode single values 1 apart
PIXEL_ATOL = 1.01 / 255
VALUE_ATOL = 1e-6
INTRINSICS_ATOL = 1e-5


def _store(folder: Path, work: str) -> PackedStore:
    pack_chunks({"test": sorted(folder.glob("*.torch"))}, work, PackConfig(), progress=False)
    return PackedStore(Path(work) / "test")


def _views(folder: Path) -> tuple[ViewsConfig, dict[str, Any]]:
    items = json.loads((folder / "dataset_items.json").read_text())
    model, training = items["config"]["model"]["image_tokenizer"], items["config"]["training"]
    selector = training["view_selector"]
    cfg = ViewsConfig(
        image_size=model["image_size"],
        patch_size=model["patch_size"],
        square_crop=training["square_crop"],
        scene_scale_factor=training["scene_scale_factor"],
        num_views=training["num_views"],
        num_target=training["num_views"] - 2,
        min_frame_dist=selector["min_frame_dist"],
        max_frame_dist=selector["max_frame_dist"],
    )
    return cfg, items


def check_index(folder: Path, config: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as work:
        with ChunkWriter(work) as writer:
            for scene in read_chunk(folder / "000000.torch"):
                writer.add(scene)
        written = json.loads((Path(work) / "index.json").read_text())
        assert written == json.loads((folder / "index.json").read_text())


def check_cameras(folder: Path, config: dict[str, Any]) -> None:
    expected = json.loads((folder / "expected_processed.json").read_text())["scenes"]
    with tempfile.TemporaryDirectory() as work:
        store = _store(folder, work)
        assert store.scenes == sorted(expected)
        for scene, content in expected.items():
            height, width = store.size(scene)
            pixels = store.intrinsics(scene).double().numpy() * [width, height, width, height]
            assert np.array_equal(pixels, [frame["fxfycxcy"] for frame in content["frames"]])
            assert store.w2c(scene).tolist() == [frame["w2c"] for frame in content["frames"]]


def check_pictures(folder: Path, config: dict[str, Any]) -> None:
    expected = json.loads((folder / "expected_processed.json").read_text())["scenes"]
    with tempfile.TemporaryDirectory() as work:
        store = _store(folder, work)
        for scene, content in expected.items():
            assert store.frames(scene) == len(content["frames"]) and not store.bad(scene)
            for number, frame in enumerate(content["frames"]):
                pixels = np.asarray(store.image(scene, number))
                same = hashlib.sha256(pixels.tobytes()).hexdigest() == frame["rgb_sha256"]
                assert same or abs(pixels.mean() - frame["rgb_mean"]) < MEAN_ATOL, f"{scene} frame {number}"


def check_evaluation_items(folder: Path, config: dict[str, Any]) -> None:
    cfg, items = _views(folder)
    with tempfile.TemporaryDirectory() as work:
        store = _store(folder, work)
        entries = known_entries(load_index(folder / "eval_index.json"), store, "eval_index.json")
        dataset = EvalSet(store, entries, cfg)
        assert len(dataset) == items["eval_len"]
        _same(dataset.item(0), folder, "eval", items["eval_scene"])


def check_training_items(folder: Path, config: dict[str, Any]) -> None:
    cfg, items = _views(folder)
    with tempfile.TemporaryDirectory() as work:
        dataset = TrainSet(_store(folder, work), cfg)
        assert len(dataset) == items["train_len"]
        draw = dataset.draw(items["train_item"], random.Random(items["train_py_seed"]))
        sample = dataset.cache.sample(dataset.scenes[draw.row], draw.frames, draw.row)
        _same(sample, folder, "train", items["train_scene"])


def _same(sample: Sample, folder: Path, split: str, scene: str) -> None:
    expected = load_file(folder / "dataset_items.safetensors")
    assert sample.scene == scene
    assert torch.equal(sample.index, expected[f"{split}_index"])
    images = sample.images.float() / 255
    torch.testing.assert_close(images, expected[f"{split}_image"], atol=PIXEL_ATOL, rtol=0)
    torch.testing.assert_close(sample.c2w, expected[f"{split}_c2w"], atol=VALUE_ATOL, rtol=0)
    torch.testing.assert_close(sample.intrinsics, expected[f"{split}_fxfycxcy"], atol=INTRINSICS_ATOL, rtol=0)
