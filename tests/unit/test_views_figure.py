"""Cost of views: the latency stage, the figure beside it, and the training keys that LaCT's recipe adds."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from import_samples import lact, run
from synthetic_results import write_evaluation
from tiny_models import config, model_of
from torch import nn

from novelview.config.compose import compose
from novelview.config.digest import resolved
from novelview.config.schema import LossConfig, PackConfig, TrainConfig, ViewsConfig
from novelview.config.sources import OpencvCamerasSource
from novelview.config.stages import TrainStage
from novelview.devices import Team
from novelview.errors import DataError
from novelview.figures.plots import read_costs, views
from novelview.figures.results import Results
from novelview.losses.photometric import PhotometricLoss, TrainingLoss
from novelview.models.registry import save_weights
from novelview.scenes.pack import pack_chunks
from novelview.stages.cli import run_stage
from novelview.stages.figures import draw
from novelview.stages.latency import latency
from novelview.training.loop import Stepper
from novelview.training.optim import Updater


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("latency")
    run(OpencvCamerasSource(held_out=2), lact(root / "object"), root / "raw")
    splits = {split: sorted((root / "raw" / split).glob("*.torch")) for split in ("train", "test")}
    pack_chunks(splits, root / "packed", PackConfig(), progress=False)
    sized = ViewsConfig(image_size=28, image_width=42, resize="cover", sampler="random")
    for name, variant in (("lact", "lact_wide"), ("lvsm_decoder_only", "")):
        stage = TrainStage(model=config(name), views=sized, variant=variant)
        save_weights(root / f"{name}.safetensors", model_of(name), resolved(stage))
    return root


def call(data: Path, out: Path, *words: str) -> int:
    models = f"io.models=[{data}/lact.safetensors,{data}/lvsm_decoder_only.safetensors]"
    given = [models, f"io.packed={data}/packed", f"io.out={out}", "runtime.device=cpu", "repeats=2", "renders=2"]
    return run_stage("latency", latency, [*given, *words])


def evaluation(folder: Path, size: str) -> Path:
    folder.mkdir(parents=True)
    write_evaluation(folder, "ptlvsm", 28)
    summary = json.loads((folder / "summary.json").read_text())
    groups = []
    for count in (16, 2, 4):
        for model in ("lact", "nearest_context"):
            score = {"mean": 18 + math.log2(count), "low": 17.0, "high": 23.0}
            groups.append({"model": model, "set": "seen", "split": f"uniform{count}", "count": 4, "psnr": score})
    (folder / "summary.json").write_text(json.dumps(summary | {"model": "lact", "resolution": size, "groups": groups}))
    return folder


def test_costs_are_measured_for_every_number_of_views(data: Path, tmp_path: Path) -> None:
    assert call(data, tmp_path / "latency.csv", "views=[2,4,8]", "sizes=[42]") == 0
    with open(tmp_path / "latency.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    found = [(row["model"], row["resolution"], int(row["views"])) for row in rows]
    names = [(name, size) for name in ("lact_wide", "lvsm_decoder_only") for size in ("28x42", "42")]
    assert found == [(*name, count) for name in names for count in (2, 4, 8)]
    assert all(float(row["reconstruct_s"]) > 0 and float(row["render_s"]) > 0 and row["torch"] for row in rows)
    states = {(row["model"], int(row["views"])): int(row["state_bytes"]) for row in rows if row["resolution"] == "42"}
    assert states["lact_wide", 2] == states["lact_wide", 8], "fast weights do not grow with the views"
    assert states["lvsm_decoder_only", 8] == 4 * states["lvsm_decoder_only", 2]
    costs = read_costs(tmp_path / "latency.csv")
    assert [(cost.model, str(cost.resolution), cost.views) for cost in costs] == found


@pytest.mark.parametrize(
    ("words", "said"),
    [(["views=[2,9]"], "views=9: the longest scene"), (["views=[2]", "sizes=[30]"], "multiples of the patch size, 14"),
     (["io.models=[]"], "io.models is empty"), (["repeats=0"], "repeats=0: must be greater than 0"),
     (["views=[0]"], "views=0")],
)  # fmt: skip
def test_costs_that_cannot_be_measured_are_one_line(data: Path, tmp_path: Path, capsys, words, said: str) -> None:
    assert call(data, tmp_path / "latency.csv", *words) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "latency.csv").exists()


def test_the_figure_of_views_with_and_without_costs(data: Path, tmp_path: Path) -> None:
    folders = [evaluation(tmp_path / "a/evaluation", "28x42"), evaluation(tmp_path / "b/evaluation", "56x84")]
    assert call(data, tmp_path / "latency.csv", "views=[2,4]") == 0
    drawn = draw(Results(folders, extras=[tmp_path / "latency.csv"], figure="views"), tmp_path / "views")
    text = next(path for path in drawn if path.suffix == ".svg").read_text()
    assert "Rendering, each view" in text and "LaCT, 56x84 px" in text
    bare = draw(Results(folders, figure="views"), tmp_path / "bare")
    assert "Rendering" not in next(path for path in bare if path.suffix == ".svg").read_text()


def test_a_figure_without_counted_views_or_with_another_table_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    write_evaluation(tmp_path / "plain", "ptlvsm", 28)
    with pytest.raises(DataError, match=r"eval.context_counts"):
        views(Results([tmp_path / "plain"]))
    counted = evaluation(tmp_path / "counted", "28")
    with pytest.raises(DataError, match="run the latency stage first"):
        views(Results([counted], extras=[tmp_path / "gone.csv"]))
    (tmp_path / "other.csv").write_text("model,views\nlact,3\n")
    with pytest.raises(DataError, match="not a table of the latency stage"):
        views(Results([counted], extras=[tmp_path / "other.csv"]))


def test_gradients_are_judged_from_a_given_update_on() -> None:
    model = nn.Linear(2, 2)
    cfg = replace(TrainConfig(), clip_norm=1.0, allowed_gradnorm_factor=2.0, clip_from=2, lr=1.0, warmup=0)
    rule = Updater(model, torch.optim.SGD(model.parameters(), lr=1.0), cfg)
    skipped = []
    for _ in range(4):
        before = model.weight.detach().clone()
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 10.0)
        skipped.append(rule.update([torch.tensor(1.0)]).skipped)
        moved = float((model.weight - before).abs().max().detach())
        assert moved == 0 if skipped[-1] else moved > 5, "before, a step is as long as its gradient"
    assert skipped == [None, None, "norm", "norm"]
    again = Updater(model, torch.optim.SGD(model.parameters(), lr=1.0), cfg)
    again.load_state_dict(rule.state_dict())
    assert again.seen == 4


def test_lpips_joins_the_loss_at_its_step(monkeypatch) -> None:
    class Distance(nn.Module):
        def forward(self, render, target, normalize):
            return (render - target).abs().mean()

    monkeypatch.setattr("novelview.losses.photometric.load_lpips", lambda path: Distance())
    loss = PhotometricLoss(LossConfig(perceptual=0.0, lpips=1.0, lpips_from=3))
    one, two = torch.zeros(1, 2, 3, 4, 4), torch.full((1, 2, 3, 4, 4), 0.5)
    found = []
    for step in (0, 2, 3, 9):
        loss.step = step
        found.append(float(loss(one, two)["loss"]))
    assert found == pytest.approx([0.25, 0.25, 0.75, 0.75])


def test_the_loop_tells_the_loss_its_step() -> None:
    model, loss = model_of("lact"), TrainingLoss(LossConfig(perceptual=0.0))
    stepper = Stepper(model, loss, replace(TrainConfig(), amp="none"), Team(0, 1, torch.device("cpu")))
    stepper.updater.seen = 41
    with pytest.raises(RuntimeError):
        stepper.step(iter([]))
    assert loss.step == 41


def test_the_published_recipe() -> None:
    cfg = compose("train", ["model=lact", "scale=paper", "phase=finetune"])
    train, seen = cfg.train, cfg.views
    assert (train.lr, train.beta1, train.beta2, train.weight_decay) == (1e-4, 0.9, 0.95, 0.05)
    assert (train.warmup, train.steps, train.clip_from, train.clip_norm * train.allowed_gradnorm_factor) == (
        4000, 80000, 1000, 4.0,
    )  # fmt: skip
    assert (train.losses.lpips, train.losses.lpips_from, train.losses.perceptual) == (1.0, 5000, 0.0)
    assert (seen.num_views, seen.num_context, seen.num_target, seen.image_size) == (15, 8, 8, 256)
    assert (seen.resize, seen.sampler, seen.scene_scale_factor, train.batch_size) == ("cover", "random", 1.0, 8)
