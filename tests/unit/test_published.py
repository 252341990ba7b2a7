"""Published checkpoints: what is taken from them, what is refused, and that damage is one line."""

import argparse
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from novelview.config.models import DinoConfig, ModelConfig, PTLVSMConfig, TransformerConfig, UPLVSMConfig
from novelview.errors import CheckpointError, NovelviewError
from novelview.models.published import load_published
from novelview.models.registry import build
from novelview.models.render import ViewModel

TRANSFORMER = TransformerConfig(d=16, d_head=8)
DINO = DinoConfig(img_size=28, embed_dim=16, depth=1, num_heads=2, num_register_tokens=1)
Change = Callable[[dict[str, Tensor]], object]


def _small(**changes: Any) -> ModelConfig:
    return PTLVSMConfig(transformer=TRANSFORMER, dino=DINO, n_layer=1, **changes)


def _model(seed: int, cfg: ModelConfig | None = None) -> ViewModel:
    torch.manual_seed(seed)
    return build(cfg or _small())


def _same(one: ViewModel, other: ViewModel) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[key]) for key, value in one.state_dict().items())


def _training_state(model: ViewModel, prefix: str = "") -> dict[str, Any]:
    weights = {f"{prefix}{key}": value for key, value in model.state_dict().items()}
    frozen = {f"{prefix}loss_computer.perceptual_loss_module.vgg.features.0.weight": torch.zeros(2, 2)}
    return {"model": weights | frozen, "optimizer": {"state": {}}, "lr_scheduler": {}, "param_update_step": 7}


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_a_training_state_loads_whatever_wrapped_it(tmp_path: Path, prefix: str) -> None:
    source, model = _model(1), _model(2)
    torch.save(_training_state(source, prefix), tmp_path / "ckpt.pt")
    load_published(tmp_path / "ckpt.pt", model)
    assert _same(source, model)


def test_a_bare_safetensors_file_loads(tmp_path: Path) -> None:
    source, model = _model(1), _model(2)
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    load_published(tmp_path / "weights.safetensors", model)
    assert _same(source, model)


@pytest.mark.parametrize("kept", ["target_pose_tokenizer.1.weight", "canonical_pose_tokenizer.1.weight"])
def test_a_tied_weight_may_be_stored_under_one_name(tmp_path: Path, kept: str) -> None:
    names = {"encoder_n_layer": 1, "estimator_n_layer": 1, "decoder_n_layer": 1, "n_latent_vectors": 3}
    cfg = UPLVSMConfig(transformer=TRANSFORMER, dino=DINO, decoder_as_canonical=True, **names)
    source, model = _model(1, cfg), _model(2, cfg)
    state = {key: value for key, value in source.state_dict().items() if key == kept or "pose_tokenizer" not in key}
    save_file(state, tmp_path / "weights.safetensors")
    load_published(tmp_path / "weights.safetensors", model)
    assert _same(source, model)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("transformer_blocks.0.attn.fc.weight"), "lacks .*transformer_blocks.0.attn.fc.weight"),
        (lambda state: state.update({"extra.weight": torch.zeros(1)}), "extra.weight"),
        (lambda state: state.update({"transformer_blocks.0.norm1.weight": torch.zeros(3)}), r"norm1.weight' is \(3,\)"),
    ],
)
def test_a_key_that_does_not_fit_is_named(tmp_path: Path, change: Change, words: str) -> None:
    state, model = dict(_model(1).state_dict()), _model(2)
    change(state)
    torch.save({"model": state}, tmp_path / "ckpt.pt")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=words):
        load_published(tmp_path / "ckpt.pt", model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), "nothing was loaded"


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load_published(tmp_path / "ckpt.pt", _model(1))


class Hostile:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def test_a_hostile_checkpoint_runs_nothing(tmp_path: Path) -> None:
    torch.save({"model": {"weight": Hostile(tmp_path / "owned")}}, tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError):
        load_published(tmp_path / "ckpt.pt", _model(1))
    assert not (tmp_path / "owned").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", ["zip.pt", "legacy.pt", "weights.safetensors"])
def test_every_damage_is_one_line(tmp_path: Path, name: str) -> None:
    path, model, generator = tmp_path / name, _model(1), random.Random(0)
    state = {"weight": torch.zeros(2)}
    if name.endswith(".safetensors"):
        save_file(state, path)
    else:
        torch.save({"model": state}, path, _use_new_zipfile_serialization=name == "zip.pt")
    whole = path.read_bytes()
    for attempt in range(200):
        damaged = bytearray(whole[: generator.randrange(len(whole))] if attempt % 4 == 0 else whole)
        for _ in range(generator.choice([1, 2, 8]) if damaged else 0):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        path.write_bytes(bytes(damaged))
        with pytest.raises(NovelviewError) as caught:
            load_published(path, model)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)


def test_a_checkpoint_with_other_objects_says_which(tmp_path: Path) -> None:
    torch.save({"model": _model(1).state_dict(), "args": argparse.Namespace(lr=1)}, tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match=r"holds argparse\.Namespace.*no code is run"):
        load_published(tmp_path / "ckpt.pt", _model(2))


@pytest.mark.parametrize(
    ("change", "words"),
    [(lambda value: value * float("nan"), "not finite"), (lambda value: value.int(), r"torch\.int32")],
)
def test_weights_no_model_can_use_are_refused_by_name(tmp_path: Path, change: Any, words: str) -> None:
    state = _model(1).state_dict()
    key = next(iter(state))
    torch.save({**state, key: change(state[key])}, tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match=f"{key}.*{words}"):
        load_published(tmp_path / "ckpt.pt", _model(2))
