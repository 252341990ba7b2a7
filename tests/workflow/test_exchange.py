"""Rules that take weights in and send weights out: what is planned, what is never, and one adoption for real."""

from pathlib import Path

import pytest
import torch
from planned_jobs import configurations, jobs, snakemake

from novelview.config.compose import compose
from novelview.models.registry import build, load_weights


def test_publishing_is_planned_only_when_asked_for(tmp_path: Path) -> None:
    assert not {"publish_model", "adopt_model", "fetch_published"} & jobs(snakemake(tmp_path, "-n")).keys()
    said = snakemake(tmp_path, "-n", "publish", "--config", "publish=me", "licence=cc-by-4.0")
    assert jobs(said)["publish_model"] == 4
    sent = {(one["repo"], one["licence"]) for one in configurations(said, tmp_path, "publish")}
    assert ("me/novelview-uplvsm-rooms-full-x56", "cc-by-4.0") in sent


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
    target = "results/demo/models/uplvsm/published/pretrain-x56/model.safetensors"
    config = ["--config", f"init=uplvsm={tmp_path}/mine.pt"]
    assert jobs(snakemake(tmp_path, "--cores", "1", target, *config))["adopt_model"] == 1
    adopted, header = load_weights(tmp_path / target)
    theirs = model.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in adopted.state_dict().items())
    assert header["adopted"]["file"] == "mine.pt" and header["views"]["image_size"] == 56
    assert "Nothing to be done" in snakemake(tmp_path, "--cores", "1", target, *config)
