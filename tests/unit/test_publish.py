"""The whole way of a published checkpoint: adopted, finetuned at the second resolution, scored, published, loaded."""

import json
from collections.abc import Iterator
from pathlib import Path

import fake_hub
import pytest
import torch
import yaml
from fake_hub import TOKEN, FakeHub
from packed_stores import MakePacked
from published_checkpoint import overrides, write_checkpoint

from novelview.config.schema import PackConfig
from novelview.downloads import transfer
from novelview.errors import CheckpointError, DataError
from novelview.files import sha256, write_json
from novelview.models.exchange import load_pretrained
from novelview.models.registry import load_weights
from novelview.scenes.batch import Views
from novelview.scenes.pack import pack_chunks
from novelview.scenes.views import EvalEntry, save_index
from novelview.stages import adopt
from novelview.stages.cli import run_stage
from novelview.stages.evaluate import evaluate
from novelview.stages.publish import publish
from novelview.stages.train import train

RUN = ["runtime.device=cpu", "runtime.progress=false"]
TRAIN = ["views.num_views=3", "views.num_target=1", "views.min_frame_dist=2", "views.max_frame_dist=6"]
RECIPE = [
    *("train.steps=2", "train.warmup=1", "train.batch_size=1", "train.amp=none", "train.losses.perceptual=0"),
    *("runtime.wandb=disabled", "runtime.workers=0", "runtime.cache_mb=8"),
]
EVALUATION = [
    "eval.swap_poses=true",
    "eval.splits=[full]",
    "eval.bootstrap=20",
    "eval.video_scenes=0",
    "eval.pose_scenes=0",
]


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory, make_packed: MakePacked) -> Path:
    """A folder with start.safetensors (adopted, 56 px), model.safetensors (finetuned, 70 px) and evaluation/."""
    root = tmp_path_factory.mktemp("run")
    make_packed(root, {"scene0": 8, "scene1": 8}, (70, 98))
    chunks, packed = [root / "raw/000000.torch"], root / "both"
    pack_chunks({"train": chunks, "test": chunks}, packed, PackConfig(), progress=False)
    save_index(root / "raw/indices/full.json", [EvalEntry(f"scene{number}", (0, 6), (2, 3)) for number in (0, 1)])
    write_json(root / "raw/scenes.json", {f"scene{number}": {"set": "new"} for number in (0, 1)})
    write_checkpoint(root / "ckpt.pt", "uplvsm")
    start, weights = root / "start.safetensors", root / "model.safetensors"
    assert adopt.main([f"file={root}/ckpt.pt", *overrides("uplvsm", 56), f"io.out={start}"]) == 0
    paths = [f"io.packed={packed}", f"io.init={start}", f"io.out={weights}", f"io.log={root}/train.csv"]
    words = ["phase=finetune", "dataset=noise", *overrides("uplvsm", 70), *RUN, *TRAIN, *RECIPE, *paths]
    assert run_stage("train", train, [*words, f"io.checkpoints={root}/checkpoints"]) == 0
    for name in ("start", "model"):
        out = [f"io.weights={root}/{name}.safetensors", f"io.out={root}/evaluation-{name}"]
        data = [f"io.packed={packed}", f"io.raw={root}/raw", "dataset=noise"]
        assert run_stage("evaluate", evaluate, [*RUN, *EVALUATION, *data, *out]) == 0
    return root


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(transfer.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with fake_hub.running() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def words(scored: Path, out: Path, *more: str, name: str = "model") -> list[str]:
    paths = {"weights": scored / f"{name}.safetensors", "evaluation": scored / f"evaluation-{name}", "out": out}
    return [*(f"io.{key}={value}" for key, value in paths.items()), *more]


def render(model) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(1, 4, 3, 70, 70, generator=generator)
    lenses = torch.tensor([[[60.0, 60.0, 35.0, 35.0]]])
    poses = torch.eye(4).expand(1, 4, 4, 4)
    with torch.no_grad():
        context, target = (
            Views(images[:, part], poses[:, part], lenses.expand(1, 2, 4)) for part in (slice(0, 2), slice(2, 4))
        )
        return model(context, target).images


def test_published_weights_come_back_the_same(scored: Path, hub: FakeHub, tmp_path: Path) -> None:
    out = tmp_path / "release"
    assert run_stage("publish", publish, words(scored, out, "repo=someone/up", "licence=cc-by-nc-4.0")) == 0
    record = json.loads((out / "published.json").read_text())
    assert record == {"repo": "someone/up", "commit": hub.repos["models/someone/up"].sha}
    there = hub.repos["models/someone/up"].files
    names = {"model.safetensors", "config.json", "README.md", "evaluation/summary.json", "evaluation/rows.csv"}
    assert names | {".gitattributes"} == set(there)
    assert there["model.safetensors"] == (scored / "model.safetensors").read_bytes()

    for revision in (None, "main", record["commit"]):
        model, config = load_pretrained("someone/up", revision)
        assert config["views"]["image_size"] == 70 and config["phase"] == "finetune"
    local, _ = load_weights(scored / "model.safetensors")
    assert torch.equal(render(model), render(local))
    start, _ = load_weights(scored / "start.safetensors")
    assert not torch.equal(render(start), render(local))


def test_publishing_again_adds_a_commit(scored: Path, hub: FakeHub, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert run_stage("publish", publish, words(scored, tmp_path / name, "repo=someone/up")) == 0
    first, second = (json.loads((tmp_path / name / "published.json").read_text())["commit"] for name in ("a", "b"))
    assert first != second and load_pretrained("someone/up", second)
    with pytest.raises(DataError, match=r"not fetched: .*Revision Not Found"):
        load_pretrained("someone/up", "0" * 40)


def test_the_card_says_what_the_numbers_say(scored: Path, tmp_path: Path) -> None:
    out = tmp_path / "release"
    assert run_stage("publish", publish, words(scored, out)) == 0
    card = (out / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    summary = json.loads((scored / "evaluation-model/summary.json").read_text())
    own = next(row for row in summary["groups"] if row["model"] == "uplvsm")
    (result,) = head["model-index"][0]["results"]
    metrics = {metric["type"]: metric for metric in result["metrics"]}
    assert metrics.keys() == {"psnr", "ssim", "sharpness", "flip"}  # no backbone here: LPIPS was not computed
    assert metrics["psnr"]["value"] == round(own["psnr"]["mean"], 2)
    assert f"{own['psnr']['low']:.4g} to {own['psnr']['high']:.4g}" in metrics["psnr"]["name"]
    assert head["license"] == "other" and head["library_name"] == "novelview"
    assert "**target image**" in card and "Its camera is estimated from the target picture itself" in card
    assert all(name in card for name in ("Nearest context", "Mean of contexts", "Mean colour", "another target's pose"))
    assert sha256(scored / "model.safetensors") in card and "Trained on `noise`" in card
    assert json.loads((out / "published.json").read_text()) == {"repo": None, "commit": None}


def test_the_card_of_adopted_weights_says_whose_they_are(scored: Path, tmp_path: Path) -> None:
    assert run_stage("publish", publish, words(scored, tmp_path / "release", name="start")) == 0
    card = (tmp_path / "release/README.md").read_text()
    assert f"Not trained here: adopted from `ckpt.pt` (SHA-256 {sha256(scored / 'ckpt.pt')})" in card
    model, config = load_pretrained(tmp_path / "release")
    assert config["adopted"]["file"] == "ckpt.pt" and model.training is False


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["repo=nobody"], "repo=nobody: give owner/name"),
        (["io.weights={scored}/start.safetensors"], "scores other weights than"),
        (["io.weights={scored}/ckpt.pt"], "no weights of novelview"),
        (["io.evaluation={scored}/none"], "summary.json: no such file"),
        (["io.out={scored}"], "no publishing made, and it is replaced whole"),
        (["token=hf_secret"], "token"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    scored: Path, hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], line: str
) -> None:
    given = [word.format(scored=scored) for word in more]
    assert run_stage("publish", publish, [*words(scored, tmp_path / "release"), *given]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and line in error
    assert not (tmp_path / "release").exists() and not hub.repos


def test_without_a_token_nothing_is_sent(scored: Path, hub: FakeHub, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    assert run_stage("publish", publish, words(scored, tmp_path / "release", "repo=someone/up")) == 2
    assert "hf auth login" in capsys.readouterr().err and not hub.asked


def test_a_wrong_token_is_one_line(scored: Path, hub: FakeHub, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong_token")
    assert run_stage("publish", publish, words(scored, tmp_path / "release", "repo=someone/up")) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "not published" in error and "401" in error and "hf_wrong_token" not in error
    assert not (tmp_path / "release").exists()


def test_bytes_that_change_on_the_way_are_found(scored: Path, hub: FakeHub, tmp_path, capsys, monkeypatch):
    keep = fake_hub.Handler.do_PUT
    monkeypatch.setattr(fake_hub.Handler, "do_PUT", lambda self: (keep(self), self.spoil()))
    monkeypatch.setattr(fake_hub.Handler, "spoil", _spoil, raising=False)
    assert run_stage("publish", publish, words(scored, tmp_path / "release", "repo=someone/up")) == 2
    assert " differs there from " in capsys.readouterr().err


def _spoil(handler: fake_hub.Handler) -> None:
    for digest, content in handler.hub.objects.items():
        handler.hub.objects[digest] = content[:-1] + bytes([content[-1] ^ 1])


def test_what_cannot_be_loaded_is_one_line(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("someone/other", {"model.safetensors": b"no weights" * 500})
    with pytest.raises(CheckpointError, match="no weights of novelview"):
        load_pretrained("someone/other")
    with pytest.raises(DataError, match="not fetched"):
        load_pretrained("someone/none")
    with pytest.raises(CheckpointError, match="neither a file nor a folder here"):
        load_pretrained("up")
    with pytest.raises(CheckpointError, match="has no revision"):
        load_pretrained(tmp_path, "main")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="HF_HUB_OFFLINE is set"):
        load_pretrained("someone/none")


def test_offline_the_cache_serves(scored: Path, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("someone/up", {"model.safetensors": (scored / "model.safetensors").read_bytes()})
    load_pretrained("someone/up")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    count = len(hub.asked)
    model, _ = load_pretrained("someone/up")
    assert torch.equal(render(model), render(load_weights(scored / "model.safetensors")[0]))
    assert len(hub.asked) == count
