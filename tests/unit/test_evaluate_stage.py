"""Stage `evaluate` on a packed store with real models: the folder it leaves, torchrun, and its one-line errors."""

import io
import json
import os
import shutil
import subprocess
import sys
from functools import partial

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from novelview.config.digest import resolved
from novelview.config.models import DinoConfig, PTLVSMConfig, TransformerConfig, UPLVSMConfig
from novelview.config.schema import PackConfig, TrainConfig, ViewsConfig
from novelview.config.stages import TrainStage
from novelview.evaluation.scores import read_rows
from novelview.files import file_entries, write_json
from novelview.models.registry import build, save_weights
from novelview.scenes.chunks import ChunkScene, write_chunk
from novelview.scenes.pack import pack_chunks
from novelview.scenes.views import EvalEntry, save_index
from novelview.stages.cli import run_stage
from novelview.stages.evaluate import evaluate

DINO = DinoConfig(embed_dim=32, depth=1, num_heads=2, img_size=56)
SIZE = {"transformer": TransformerConfig(d=32, d_head=16), "dino": DINO}
UP = UPLVSMConfig(**SIZE, encoder_n_layer=1, estimator_n_layer=1, decoder_n_layer=1, n_latent_vectors=4)
PT = PTLVSMConfig(**SIZE, n_layer=1)
score = partial(run_stage, "evaluate", evaluate)


def jpeg(generator: torch.Generator) -> bytes:
    noise = torch.randint(0, 256, (4, 7, 3), dtype=torch.uint8, generator=generator)
    stream = io.BytesIO()
    Image.fromarray(noise.numpy()).resize((98, 56)).save(stream, "JPEG")
    return stream.getvalue()


def scene(number: int, frames: int = 8) -> ChunkScene:
    generator = torch.Generator().manual_seed(number)
    cameras = torch.zeros(frames, 18)
    cameras[:, :4] = torch.tensor([0.6, 1.0, 0.5, 0.5])
    cameras[:, 6:] = torch.eye(3, 4).flatten()
    cameras[:, 9] = -0.2 * torch.arange(frames)
    images = [jpeg(generator) for _ in range(frames)]
    return ChunkScene(f"scene{number}", "", torch.arange(frames) * 33_333, cameras, images)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    (root / "raw/test").mkdir(parents=True)
    write_chunk(root / "raw/test/000000.torch", [scene(number) for number in range(5)])
    pack_chunks({"test": [root / "raw/test/000000.torch"]}, root / "packed", PackConfig(), progress=False)
    wide = [EvalEntry(f"scene{number}", (0, 7), (2, 3, 5)) for number in range(5)]
    near = [EvalEntry(f"scene{number}", (1, 5), (2, 3)) for number in (1, 3)]
    for split, entries in {"gap7": wide, "large": near, "small": []}.items():
        save_index(root / f"raw/indices/{split}.json", entries)
    write_json(root / "raw/scenes.json", {f"scene{n}": {"set": "seen" if n % 2 else "new"} for n in range(5)})
    for model in (UP, PT):
        torch.manual_seed(0)
        stage = TrainStage(model=model, views=ViewsConfig(image_size=28), train=TrainConfig(steps=3))
        save_weights(root / f"{model.name}.safetensors", build(model), resolved(stage))
    return root


def overrides(data, out, model="uplvsm", *more: str) -> list[str]:
    given = ["eval.bootstrap=20", "eval.video_scenes=1", "eval.video_frames=3", "runtime.device=cpu", *more]
    paths = {"packed": data / "packed", "raw": data / "raw", "weights": data / f"{model}.safetensors", "out": out}
    return [*given, *(f"io.{key}={value}" for key, value in paths.items())]


def run(data, out, model="uplvsm", *more: str) -> int:
    return score(overrides(data, out, model, *(more or ("eval.splits=[gap7,large,small]",))))


def test_both_models_leave_a_whole_folder(data, tmp_path):
    for model in ("uplvsm", "ptlvsm"):
        assert run(data, tmp_path / model, model, "eval.swap_poses=true", "eval.splits=[gap7,large,small]") == 0
        told = json.loads((tmp_path / model / "summary.json").read_text())
        assert (told["model"], told["resolution"], told["dataset"]) == (model, "28", "rooms")
        assert told["weights"]["config"]["train"]["steps"] == 3 and len(told["weights"]["digest"]) == 12
        names = {model, f"{model}_swapped_pose", "nearest_context", "mean_context", "mean_colour"}
        rows = read_rows(tmp_path / model / "rows.csv")
        assert {row.model for row in rows} == names and len(rows) == (5 * 3 + 2 * 2) * len(names)
        assert {(group["set"], group["split"]) for group in told["groups"]} == {
            ("seen", "gap7"),
            ("new", "gap7"),
            ("seen", "large"),
        }
    assert told["given"] == {"context_poses": True, "target_poses": True, "target_images": False}
    assert (tmp_path / "uplvsm/poses.json").is_file() and not (tmp_path / "ptlvsm/poses.json").exists()
    with safe_open(tmp_path / "uplvsm/gallery.safetensors", framework="pt") as file:
        attention = file.get_tensor("0.attention").float()
        assert attention.shape == (4, 4) and 0 < float(attention.sum(dim=1).max()) <= 1


@pytest.mark.parametrize("name", ["indices/gap7.json", "scenes.json"])
def test_what_the_manifest_lists_is_not_scored_when_it_changed(data, tmp_path, capsys, name):
    raw = tmp_path / "raw"
    shutil.copytree(data / "raw", raw)
    write_json(raw / "manifest.json", {"files": file_entries(raw), "source": {}})
    words = [*overrides(data, tmp_path / "out", "ptlvsm", "eval.splits=[gap7]"), f"io.raw={raw}"]
    text = (raw / name).read_text()
    (raw / name).write_text(text.replace("7", "6") if "indices" in name else text.replace('"seen"', '"near"'))
    assert score(words) == 2 and f"{raw / name}: content differs from the manifest" in capsys.readouterr().err
    (raw / name).write_text(text)
    assert score(words) == 0


def test_two_processes_give_the_numbers_of_one(data, tmp_path):
    assert run(data, tmp_path / "one") == 0
    words = [*overrides(data, tmp_path / "two", "uplvsm", "eval.splits=[gap7,large,small]", "eval.batch_size=2")]
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "novelview.stages.evaluate"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", *torchrun, *words], check=True, env=env, capture_output=True)
    one, two = (read_rows(tmp_path / name / "rows.csv") for name in ("one", "two"))
    for left, right in zip(one, two, strict=True):
        assert (left.model, left.scene, left.set, left.split, left.entry, left.frame) == (
            right.model, right.scene, right.set, right.split, right.entry, right.frame,
        )  # fmt: skip
        assert left.psnr == pytest.approx(right.psnr, abs=1e-3) and left.ssim == pytest.approx(right.ssim, abs=1e-4)
    with safe_open(tmp_path / "two/gallery.safetensors", framework="pt") as file:
        assert len(json.loads(file.metadata()["gallery"])) == 6


def refused(capsys, status: int) -> str:
    lines = capsys.readouterr().err.strip().splitlines()
    assert status == 2
    return lines[-1]


def test_a_split_that_does_not_exist_is_named_with_those_that_do(data, tmp_path, capsys):
    line = refused(capsys, run(data, tmp_path, "uplvsm", "eval.splits=[gap7,huge]"))
    assert line.endswith("no index of split 'huge' (eval.splits); choose among gap7, large, small")


def test_missing_weights_and_missing_data_are_named(data, tmp_path, capsys):
    assert "gone.safetensors: no such file" in refused(capsys, run(data, tmp_path, "gone"))
    line = refused(capsys, run(tmp_path, tmp_path, "uplvsm"))
    assert str(tmp_path / "packed") in line


def test_weights_without_views_are_refused(data, tmp_path, capsys):
    save_weights(tmp_path / "bare.safetensors", build(PT), {"model": resolved(TrainStage(model=PT))["model"]})
    words = overrides(data, tmp_path / "out", "uplvsm", "eval.splits=[gap7]", f"io.weights={tmp_path}/bare.safetensors")
    words = [word for word in words if "uplvsm.safetensors" not in word]
    assert "bare.safetensors: no usable 'views' in its header" in refused(capsys, score(words))


@pytest.mark.parametrize("content", [[], {"scene0": 3}, {"scene0": {}}])
def test_scenes_without_their_set_are_one_line(data, tmp_path, capsys, content):
    write_json(tmp_path / "raw/scenes.json", content)
    save_index(tmp_path / "raw/indices/gap7.json", [EvalEntry("scene0", (0, 7), (2,))])
    words = [*overrides(data, tmp_path / "out"), f"io.raw={tmp_path}/raw", "eval.splits=[gap7]"]
    assert "scenes.json: does not map scenes to their set" in refused(capsys, score(words))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("contexts", [(0,), (0, 3, 7)])
def test_entries_may_have_any_number_of_context_views(data, tmp_path, contexts):
    write_json(tmp_path / "raw/scenes.json", {})
    save_index(tmp_path / "raw/indices/odd.json", [EvalEntry("scene0", contexts, (2, 5))])
    words = [*overrides(data, tmp_path / "out"), f"io.raw={tmp_path}/raw", "eval.splits=[odd]"]
    assert score(words) == 0
    assert len(list((tmp_path / "out").glob("path_*.mp4"))) == int(len(contexts) > 1)


def test_views_no_model_can_take_are_refused_before_anything_is_written(data, tmp_path, capsys):
    stage = TrainStage(model=PT, views=ViewsConfig(image_size=29))
    save_weights(tmp_path / "odd.safetensors", build(PT), resolved(stage))
    words = [*overrides(data, tmp_path / "out"), f"io.weights={tmp_path}/odd.safetensors", "eval.splits=[gap7]"]
    assert "image_size=29" in refused(capsys, score(words)) and not (tmp_path / "out").exists()
