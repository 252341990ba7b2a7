"""Stage `adopt`: a published checkpoint becomes weights like any of ours, and nothing that does not fit does.
Published checkpoints: what is taken from them, what is refused, and that damage is one line."""

import argparse
import os
import pickle
import random
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fake_hub
import pytest
import torch
from fake_hub import FakeHub
from PIL import Image
from published_checkpoint import overrides, write_checkpoint
from safetensors.torch import save_file
from torch import Tensor

from novelview.config.compose import compose
from novelview.config.models import DinoConfig, ModelConfig, PTLVSMConfig, TransformerConfig, UPLVSMConfig
from novelview.downloads.registry import adoption, read_registry
from novelview.errors import CheckpointError, ConfigError, NovelviewError
from novelview.models.published import load_published, read_state
from novelview.models.registry import build, load_weights, read_config
from novelview.models.render import ViewModel
from novelview.scenes.chunks import ChunkScene, read_chunk, write_chunk
from novelview.stages.adopt import main
from novelview.training.checkpoint import load_init


@pytest.mark.parametrize(
    ("kind", "prefix", "nest"),
    [
        ("uplvsm", "module.", "model"),
        ("uplvsm", "_orig_mod.module.", "state_dict"),
        ("uplvsm", "module._orig_mod.", "model"),
        ("ptlvsm", "", "model"),
    ],
)
def test_a_published_checkpoint_becomes_ours(tmp_path: Path, kind: str, prefix: str, nest: str) -> None:
    weights = write_checkpoint(tmp_path / "ckpt.pt", kind, prefix, nest)
    out = tmp_path / "deep/model.safetensors"
    assert main([f"file={tmp_path}/ckpt.pt", *overrides(kind, 56), f"io.out={out}", "dataset=re10k"]) == 0
    model, config = load_weights(out)
    state = model.state_dict()
    assert state.keys() == weights.keys() and all(torch.equal(state[key], weights[key]) for key in weights)
    assert config["model"]["name"] == kind and config["views"]["image_size"] == 56 and config["dataset"] == "re10k"
    assert config["adopted"]["file"] == "ckpt.pt" and len(config["adopted"]["sha256"]) == 64
    assert str(tmp_path) not in str(config)


def test_the_same_checkpoint_gives_the_same_bytes(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "ckpt.pt", "uplvsm")
    for name in ("a", "b"):
        assert (
            main([f"file={tmp_path}/ckpt.pt", *overrides("uplvsm", 56), f"io.out={tmp_path}/{name}.safetensors"]) == 0
        )
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_wrapped_submodules_are_unwrapped(tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path / "plain.pt", "uplvsm", "")
    deep = {
        key.replace("transformer_encoder.0.", "transformer_encoder.0._checkpoint_wrapped_module."): value
        for key, value in weights.items()
    }
    assert deep.keys() != weights.keys()
    torch.save({"model": deep}, tmp_path / "deep.pt")
    assert main([f"file={tmp_path}/deep.pt", *overrides("uplvsm", 56), f"io.out={tmp_path}/m.safetensors"]) == 0


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["file={folder}/gone.pt"], "gone.pt: no such file"),
        (["file={folder}"], "no such file"),
        ([], "give either name=ENTRY"),
        (["name=uplvsm_x224", "file={folder}/ckpt.pt"], "give either name=ENTRY"),
        (["name=vgg16"], "'vgg16' is no checkpoint of a model of this project; choose among uplvsm_x224"),
        (["name=none"], "'none' is not in conf/registry.yaml"),
        (["file={folder}/ckpt.pt", "model.encoder_n_layer=3"], "lacks the weight 'transformer_encoder.2"),
        (["file={folder}/ckpt.pt", "model.n_latent_vectors=11"], r"weight 'n_light_field_latent' is (10, 48)"),
        (["file={folder}/ckpt.pt", "io.out={folder}"], "is a folder"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], line: str):
    write_checkpoint(tmp_path / "ckpt.pt", "uplvsm")
    given = [word.format(folder=tmp_path) for word in words]
    out = [f"io.out={tmp_path}/out/model.safetensors"]
    assert main([*overrides("uplvsm", 56), *out, *given]) == 2
    error = capsys.readouterr().err.strip()
    assert line in error and "\n" not in error
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["ckpt.pt"]


def test_code_in_a_checkpoint_is_never_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": {"a": torch.zeros(1)}, "config": Path("x")}, tmp_path / "ckpt.pt")
    assert main([f"file={tmp_path}/ckpt.pt", *overrides("uplvsm", 56), f"io.out={tmp_path}/m.safetensors"]) == 2
    assert "only tensors are loaded, no code is run" in capsys.readouterr().err


def _kinds() -> list[str]:
    """Return a checkpoint for every description in the registry, image sizes of one family taken for one."""
    known = {name: entry.adopt for name, entry in read_registry().items() if entry.adopt}
    return list({tuple(word for word in words if "image" not in word): name for name, words in known.items()}.values())


@pytest.mark.parametrize("name", _kinds())
def test_every_checkpoint_of_the_registry_has_a_model(name: str) -> None:
    cfg = compose("adopt", [*adoption(read_registry(), name), f"name={name}"])
    assert cfg.name == name and cfg.scale == "paper"
    told = read_registry()[name].purpose if cfg.model.name == "depthsplat" else name
    size = re.search(r"(\d+)x(\d+)|(\d+)$", told)
    assert size is not None and cfg.views.image_size == int(size[1] or size[3])
    assert cfg.views.image_width == (0 if size[2] in (None, size[1]) else int(size[2]))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with fake_hub.running() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def test_a_name_is_fetched_and_adopted(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path / "ckpt.pt", "uplvsm")
    hub.add("littlekoyo/Less3Depend", {"uplvsm_x224.pt": (tmp_path / "ckpt.pt").read_bytes()})
    monkeypatch.chdir(tmp_path)
    out = f"io.out={tmp_path}/m.safetensors"
    assert main(["name=uplvsm_x224", *overrides("uplvsm", 56), out]) == 0
    facts = read_config(tmp_path / "m.safetensors")["adopted"]
    assert facts["name"] == "uplvsm_x224" and "littlekoyo/Less3Depend" in facts["origin"] and facts["licence"]
    assert (tmp_path / "pretrained/uplvsm_x224.pt").is_file()


# --- the second resolution (specs/uplvsm.md section 13)


def _train(words: list[str]):
    return compose("train", ["phase=finetune", *words])


@pytest.mark.parametrize("source", ["adopted", "published"])
def test_the_second_resolution_starts_from_the_very_weights(tmp_path: Path, source: str) -> None:
    """No parameter changes shape; the table is read as stored at its own grid and resized at the smaller one."""
    weights = write_checkpoint(tmp_path / "ckpt.pt", "uplvsm")
    start = tmp_path / "ckpt.pt"
    if source == "adopted":
        start = tmp_path / "model.safetensors"
        assert main([f"file={tmp_path}/ckpt.pt", *overrides("uplvsm", 56), f"io.out={start}"]) == 0
    cfg = _train(overrides("uplvsm", 70))
    model = build(cfg.model)
    load_init(model, cfg, start)
    vit = model.image_tokenizer[1].dino_vit
    images = torch.rand(1, 3, 70, 70, generator=torch.Generator().manual_seed(0))
    embedded = vit.patch_embed(images) + weights["image_tokenizer.1.dino_vit.pos_embed"][:, 1:]
    seen = []
    vit.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    vit(images)
    assert torch.equal(seen[0][:, 5:], embedded)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


def test_weights_of_another_size_do_not_start_a_finetuning(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "ckpt.pt", "uplvsm")
    assert main([f"file={tmp_path}/ckpt.pt", *overrides("uplvsm", 56), f"io.out={tmp_path}/m.safetensors"]) == 0
    cfg = _train([*overrides("uplvsm", 70), "model.dino.img_size=56"])
    with pytest.raises(CheckpointError, match=r"model\.dino\.img_size is 70 there and 56 here"):
        load_init(build(cfg.model), cfg, tmp_path / "m.safetensors")


def test_no_adoption_without_a_description() -> None:
    with pytest.raises(ConfigError, match="no checkpoint of a model"):
        adoption(read_registry(), "re10k")


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


Nest = Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]


def _under(prefix: str, state: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}{key}": value for key, value in state.items()}


@pytest.mark.parametrize(
    ("nest", "said"),
    [
        (
            lambda best, last: {
                "state_dict": _under("model.", best) | {"lpips.net.weight": torch.zeros(3)},
                "epoch": 3,
            },
            "'model.'",
        ),
        (lambda best, last: {"state_dict": _under("ema_model.", best) | _under("model.", last)}, "'ema_model.'"),
        (
            lambda best, last: (
                _under("ema_model.module.", best) | _under("online_model.", last) | {"step": torch.zeros(1)}
            ),
            "'ema_model.module.'",
        ),
        (lambda best, last: {"model": last, "ema": best}, "'ema'"),
        (lambda best, last: {"model": last, "ema": {"decay": 0.99, "shadow": _under("module.", best)}}, "'ema.shadow'"),
        (lambda best, last: {"model": best, "ema": {"decay": 0.99, "shadow_params": [torch.zeros(2)]}}, "by name"),
        (lambda best, last: {"ema_state_dict": _under("_orig_mod.", best), "state_dict": last}, "'ema_state_dict'"),
        (lambda best, last: _under("net.", best) | _under("optimizer.", last), "'net.'"),
        (lambda best, last: {"network": best}, ""),
        (lambda best, last: {"params": last, "params_ema": best}, "'params_ema'"),
        (lambda best, last: {**best, "step": 3}, ""),
        (lambda best, last: {**_under("module.", best), "n_averaged": torch.tensor(4)}, ""),
        (lambda best, last: {"model": best, "ema": None}, "'ema' holds no weights by name; those under 'model'"),
    ],
)
def test_weights_are_found_under_the_prefixes_that_people_use(
    tmp_path: Path, nest: Nest, said: str, caplog: Any
) -> None:
    best, last, model = _model(1), _model(3), _model(2)
    torch.save(nest(dict(best.state_dict()), dict(last.state_dict())), tmp_path / "ckpt.pt")
    load_published(tmp_path / "ckpt.pt", model)
    assert _same(best, model)
    assert said in caplog.text and (said or not caplog.text)


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


def test_a_checkpoint_that_unpacks_to_more_than_it_weighs_is_refused(tmp_path: Path) -> None:
    torch.save({"model": {"w": torch.zeros(10**6)}}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(tmp_path / "bomb.pt", "w") as bomb:
        for name in plain.namelist():
            bomb.writestr(name, plain.read(name), zipfile.ZIP_DEFLATED)
    assert (tmp_path / "bomb.pt").stat().st_size < 20_000
    with pytest.raises(CheckpointError, match=r"bomb\.pt: .*holds compressed records"):
        load_published(tmp_path / "bomb.pt", _model(1))


@pytest.mark.parametrize("call", [(os.system, ("true",)), (eval, ("1",)), (getattr, (1, "real"))])
def test_a_refused_pickle_says_that_it_wanted_to_run_code(tmp_path: Path, call: tuple[Any, tuple[Any, ...]]) -> None:
    class Calling:
        def __reduce__(self) -> tuple[Any, ...]:
            return call

    torch.save({"model": {"w": Calling()}}, tmp_path / "a.pt")
    torch.save([Calling()], tmp_path / "a.torch")
    (tmp_path / "bare.torch").write_bytes(pickle.dumps([Calling()]))
    for name, read in (("a.pt", read_state), ("a.torch", read_chunk), ("bare.torch", read_chunk)):
        with pytest.raises(NovelviewError, match=rf"{name}: holds \S+{call[0].__name__}: it wants to run code"):
            read(tmp_path / name)


CAMERA = torch.tensor([0.9, 0.9, 0.5, 0.5, 0, 0, *torch.eye(3, 4).flatten().tolist()])


@pytest.mark.parametrize("name", ["chunk.torch", "weights.pt", "model.safetensors", "photo.png"])
def test_file_handles_running_out_blames_no_file(tmp_path: Path, name: str) -> None:
    """A process that has no handle left says so; it must not advise to delete what is sound."""
    scene = ChunkScene("a", "", torch.arange(1), CAMERA[None], [b"x"])
    write_chunk(tmp_path / "chunk.torch", [scene])
    torch.save({"model": dict(_model(1).state_dict())}, tmp_path / "weights.pt")
    save_file(dict(_model(1).state_dict()), tmp_path / "model.safetensors")
    Image.new("RGB", (4, 4)).save(tmp_path / "photo.png")
    code = (
        "import os, resource, sys\n"
        "from novelview.scenes.chunks import read_chunk\nfrom novelview.models.published import read_state\n"
        "from novelview.scenes.imports.scene import read_picture\nfrom PIL import Image\nImage.init()\n"
        "read = {'torch': read_chunk, 'png': lambda path: read_picture(path, False, 0)}\n"
        "from pathlib import Path\npath = Path(sys.argv[1])\ncall = read.get(path.suffix[1:], read_state)\ncall(path)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\nheld = []\n"
        "try:\n    while True: held.append(os.open('/dev/null', 0))\nexcept OSError: pass\n"
        "try:\n    call(path)\nexcept OSError as error: print(error.errno, error.filename)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], capture_output=True, text=True)
    assert done.stdout.strip() == f"24 {tmp_path / name}", done.stderr


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
