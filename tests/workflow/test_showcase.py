"""Released checkpoints in the workflow: planned where there are any, refused before anything runs, rerun exactly.
Rules that take weights in and send weights out: what is planned, what is never, and one adoption for real."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from checkout import Checkout
from planned_jobs import configurations, jobs, snakemake

from novelview.config.compose import compose
from novelview.config.digest import resolved
from novelview.files import sha256
from novelview.models.exchange import compact, load_pretrained
from novelview.models.registry import build, load_weights, save_weights

SIZES = ["model.n_layer=1", "model.transformer.d=32", "model.transformer.d_head=16", "model.dino.embed_dim=32"]


def make(folder: Path, name: str, *words: str) -> Path:
    """Write released/{name} below `folder`: untrained, with a card that names it; return its folder."""
    config = compose("train", [*(words or ("model=ptlvsm", *SIZES)), "phase=finetune", "dataset=rooms-mini"])
    torch.manual_seed(len(name))
    weights, out = folder / "weights.safetensors", folder / "released" / name / "model.safetensors"
    save_weights(weights, build(config.model), resolved(config))
    compact(weights, [], name, out)
    weights.unlink()
    out.with_name("README.md").write_text(f"made up: {sha256(out)}\n")
    return out.parent


def test_the_demo_evaluates_what_is_released_and_else_plans_as_before(tmp_path: Path) -> None:
    nothing = snakemake(tmp_path, "-n")
    alone = jobs(nothing)
    assert not {"film_showcase", "evaluate_released"} & set(alone) and "rooms-showcase" not in nothing
    for name in ("first", "second"):
        make(tmp_path, name)
    said = snakemake(tmp_path, "-n")
    more = {"film_showcase": 1, "pack_showcase": 1, "evaluate_released": 2}
    assert jobs(said) == {**alone, **more, "all": 1, "total": alone["total"] + 4}
    digests = [set(re.findall(r"--config logs/config/(\S+)", text)) for text in (nothing, said)]
    assert digests[0] < digests[1] and len(digests[1] - digests[0]) == 3
    assert "io.weights=released/first/model.safetensors" in said
    assert "io.showcase='[results/demo/showcase/first/evaluation,results/demo/showcase/second/evaluation]'" in said


def test_a_damaged_one_stops_the_plan_with_one_line(tmp_path: Path) -> None:
    path = make(tmp_path, "first") / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-64])
    said = snakemake(tmp_path, "-n")
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert said.startswith("exit 2") and len(errors) == 1 and "Traceback" not in said
    assert "released/first/model.safetensors" in errors[0] and "git checkout released/first" in errors[0]


def test_a_release_is_planned_for_a_study_that_has_them(tmp_path: Path) -> None:
    said = snakemake(tmp_path, "-n", "release", "--config", "study=mini", "scale=mini")
    planned = jobs(said)
    assert planned["compact_model"] == planned["evaluate_release"] == planned["release_model"] == 4
    rounded = "results/mini/release/lvsm_mini/model.safetensors"
    before = "results/mini/models/lvsm_decoder_only/rooms-mini-full"
    assert (
        f"io.weights={before}/finetune-x252/model.safetensors io.before='[{before}/pretrain-x112/model.safetensors]'"
        in said
    )
    assert f"io.weights={rounded} io.evaluation=results/mini/release/lvsm_mini/evaluation" in said
    assert {one["licence"] for one in configurations(said, tmp_path, "publish")} == {"apache-2.0"}
    assert "io.out=released/lvsm_mini " in said
    refused = snakemake(tmp_path, "-n", "release")
    assert refused.startswith("exit 2") and "study less3depend releases nothing" in refused


@pytest.mark.slow
def test_a_released_one_is_taken_by_its_name(tmp_path: Path) -> None:
    make(tmp_path, "mine", "model=ptlvsm")
    said = snakemake(tmp_path, "-n", "evaluate", "--config", "init=mine")
    assert jobs(said)["adopt_model"] == 1
    (adoption,) = configurations(said, tmp_path, "adopt")
    assert (
        adoption["file"] == "released/mine/model.safetensors"
        and "models/ptlvsm/published/finetune-x112/model.safetensors" in said
    )
    further = snakemake(tmp_path, "-n", "finetune", "--config", "init=ptlvsm/pretrain=mine")
    assert "io.init=results/demo/models/ptlvsm/published/pretrain-x64/model.safetensors" in further
    target = "results/demo/models/ptlvsm/published/finetune-x112/model.safetensors"
    assert jobs(snakemake(tmp_path, "--cores", "1", target, "--config", "init=mine"))["adopt_model"] == 1
    theirs, _ = load_pretrained(tmp_path / "released/mine")
    adopted, header = load_pretrained(tmp_path / target)
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in adopted.state_dict().items())
    assert header["adopted"]["origin"] == "mine, released with novelview" and header["dataset"] == "rooms-mini"
    make(tmp_path, "other")
    refused = snakemake(tmp_path, "-n", "evaluate", "--config", "init=other")
    assert refused.startswith("exit 2") and "Traceback" not in refused
    assert "not of ptlvsm at scale demo" in refused and "choose the scale it was trained at" in refused


@pytest.fixture(scope="module")
def released(finished: Checkout) -> Checkout:
    """The finished tiny study, whose PT-LVSM was then released by the real command, and the demo run again."""
    finished.change("conf/study/less3depend.yaml", {"releases": {"ptlvsm": "ptlvsm_tiny"}})
    source = {"test_seen_scenes": 1, "test_new_scenes": 1, "frames": 12, "height": 48, "width": 84, "gaps": [6, 9]}
    finished.change("conf/source/rooms_showcase.yaml", source)
    shown = {"splits": ["gap6", "gap9"], "bootstrap": 20, "gallery": 2, "video_frames": 3}
    finished.change("conf/eval/showcase.yaml", shown)
    finished.call(*finished.command("release"))
    finished.call(*finished.command())
    return finished


@pytest.mark.slow
def test_what_was_released_is_scored_and_shown_beside_the_rest(released: Checkout) -> None:
    model, header = load_pretrained(released.path("released/ptlvsm_tiny"))
    assert header["released"]["phases"][0]["size"] == "28" and header["views"]["image_size"] == 42
    assert next(model.parameters()).dtype == torch.float32
    page = released.path("results/demo/less3depend/report/index.html").read_text()
    assert "PT-LVSM (released: ptlvsm_tiny), 42 px" in page and "PT-LVSM, 42 px, from scratch" in page
    assert "6 steps of 2 scenes at 28 px, then 6 steps of 2 scenes at 42 px, on rooms at scale demo" in page
    assert "No checkpoint has been released" not in page
    card = released.path("released/ptlvsm_tiny/README.md").read_text()
    assert sha256(released.path("released/ptlvsm_tiny/model.safetensors")) in card
    assert "Nothing to be done" in released.call(*released.command())
    assert "Nothing to be done" in released.call(*released.command("release"))


@pytest.mark.slow
def test_adding_and_replacing_rerun_exactly_what_shows_it(released: Checkout, tmp_path: Path) -> None:
    report = "less3depend/report/index.html"
    added = make(released.folder, "other", "model=ptlvsm", *SIZES, "views.image_size=48")
    assert released.plans() == {"showcase/other/evaluation", report}
    assert released.run() == {"write_report"}  # of the rules every study has
    assert "Nothing to be done" in released.call(*released.command("-n"))
    shutil.rmtree(added)
    make(released.folder, "other", "model=ptlvsm", *SIZES, "model.n_layer=2", "views.image_size=48")
    assert released.plans() == {"showcase/other/evaluation", report}
    shutil.rmtree(added)
    assert released.plans() == {report}


def test_publishing_is_planned_only_when_asked_for(tmp_path: Path) -> None:
    assert not {"publish_model", "adopt_model", "fetch_published"} & jobs(snakemake(tmp_path, "-n")).keys()
    said = snakemake(tmp_path, "-n", "publish", "--config", "publish=me", "licence=cc-by-4.0")
    assert jobs(said)["publish_model"] == 9
    sent = {(one["repo"], one["licence"]) for one in configurations(said, tmp_path, "publish")}
    assert ("me/novelview-uplvsm-rooms-full-x64", "cc-by-4.0") in sent


def test_a_checkpoint_by_name_is_fetched_adopted_and_finetuned(tmp_path: Path) -> None:
    said = snakemake(tmp_path, "-n", "finetune", "--config", "scale=paper", "init=uplvsm_x224", "path=somewhere")
    planned = jobs(said)
    assert planned["adopt_model"] == 1 and planned["fetch_published"] == 3  # itself, VGG-19, DINOv2
    assert "novelview.stages.fetch uplvsm_x224" in said
    assert [one["name"] for one in configurations(said, tmp_path, "adopt")] == ["uplvsm_x224"]
    assert "io.init=results/paper/models/uplvsm/published/pretrain-x224/model.safetensors" in said


def test_a_checkpoint_of_another_size_is_one_line(tmp_path: Path) -> None:
    words = ["scale=paper", "study=lact", "init=lact_scene_res72x128", "path=somewhere"]
    said = snakemake(tmp_path, "-n", "--config", *words)
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert said.startswith("exit 2") and len(errors) == 1 and "Traceback" not in said
    assert "is at 72x128 px, lact_l24_ttt4x at 256" in errors[0]


@pytest.mark.slow
def test_a_checkpoint_of_ones_own_is_adopted_by_the_rule(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = build(compose("train", ["model=uplvsm"]).model)
    torch.save({"model": {f"module.{key}": value for key, value in model.state_dict().items()}}, tmp_path / "mine.pt")
    target = "results/demo/models/uplvsm/published/pretrain-x64/model.safetensors"
    config = ["--config", f"init=uplvsm={tmp_path}/mine.pt"]
    assert jobs(snakemake(tmp_path, "--cores", "1", target, *config))["adopt_model"] == 1
    adopted, header = load_weights(tmp_path / target)
    theirs = model.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in adopted.state_dict().items())
    assert header["adopted"]["file"] == "mine.pt" and header["views"]["image_size"] == 64
    assert "Nothing to be done" in snakemake(tmp_path, "--cores", "1", target, *config)
