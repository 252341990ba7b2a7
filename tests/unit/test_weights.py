"""Weights files: one alone rebuilds its model; what cannot be used says so."""

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_models import NAMES, config, model_of, views

from novelview.config.checkpoints import FORMAT, ForeignWeightsError, read_config
from novelview.errors import CheckpointError
from novelview.models.registry import load_weights, save_weights


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_weights_file_alone_rebuilds_its_model(name: str, tmp_path: Path) -> None:
    model, path = model_of(name), tmp_path / "model.safetensors"
    resolved = {"scale": "demo", "model": dataclasses.asdict(config(name))}
    save_weights(path, model, resolved)
    loaded, kept = load_weights(path)
    assert kept == resolved == read_config(path)
    assert not loaded.training
    context, target = views(2, 1), views(1, 2)
    assert torch.equal(loaded(context, target).images, model(context, target).images)
    first = path.read_bytes()
    save_weights(path, model, resolved)
    assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]


def test_weights_files_that_cannot_be_used_say_so(tmp_path: Path) -> None:
    model, path = model_of("ptlvsm"), tmp_path / "model.safetensors"
    with pytest.raises(CheckpointError, match="no such file"):
        load_weights(path)
    node = dataclasses.asdict(config("ptlvsm"))
    for changed, words in (
        ({**node, "name": "lvsm"}, "unknown model 'lvsm'"),
        ({**node, "colour": 3}, "another version"),
        ({**node, "n_layer": 3}, "transformer_blocks.2"),
    ):
        save_weights(path, model, {"model": changed})
        with pytest.raises(CheckpointError, match=words):
            load_weights(path)
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(CheckpointError, match="damaged"):
        load_weights(path)


@pytest.mark.parametrize("text", ["{}", "{", "[]", '{"model": null}', "[" * 100_000])
def test_a_damaged_header_is_one_line(tmp_path: Path, text: str) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "m.safetensors", {"format": FORMAT, "config": text})
    with pytest.raises(CheckpointError, match="configuration in its header is damaged") as caught:
        read_config(tmp_path / "m.safetensors")
    assert "\n" not in str(caught.value)


def test_a_size_no_model_has_is_refused(tmp_path: Path) -> None:
    node = dataclasses.asdict(config("ptlvsm"))
    save_weights(tmp_path / "m.safetensors", model_of("ptlvsm"), {"model": {**node, "n_layer": 0}})
    with pytest.raises(CheckpointError, match="n_layer=0"):
        load_weights(tmp_path / "m.safetensors")


def test_a_file_of_others_is_told_from_a_damaged_header(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "m.safetensors")
    with pytest.raises(ForeignWeightsError, match=r"io\.init"):
        read_config(tmp_path / "m.safetensors")
