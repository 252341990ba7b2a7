"""Depth and surface errors against exact geometry, and what the study makes of them: figure, table, PLY, links."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from novelview.config.compose import compose
from novelview.config.digest import resolved
from novelview.config.schema import EvalConfig, Study, ViewsConfig
from novelview.errors import DataError
from novelview.evaluation.geometry import (
    MEASURES,
    Truth,
    depth_errors,
    distances,
    first_entries,
    geometry_groups,
    true_depth,
    write_geometry,
)
from novelview.evaluation.protocol import Splits
from novelview.figures.geometry import depth_maps, differences
from novelview.figures.report import ply_links
from novelview.figures.results import Results, Score, read_evaluation
from novelview.models.depthsplat.model import GaussianScene
from novelview.models.registry import build, save_weights
from novelview.scenes.batch import FrameCache, collate
from novelview.scenes.procedural.truth import exact_depth
from novelview.scenes.store import PackedStore
from novelview.scenes.views import EvalEntry
from novelview.stages.cli import run_stage
from novelview.stages.download import download
from novelview.stages.evaluate import evaluate
from novelview.stages.figures import draw
from novelview.stages.preprocess import preprocess

ROOMS = [
    "source=rooms",
    *("source.train_scenes=1", "source.test_seen_scenes=2", "source.test_new_scenes=1", "source.frames=10"),
    *("source.gaps=[6]", "source.height=36", "source.width=64", "source.jpeg_quality=99"),
]
VIEWS = ViewsConfig(image_size=32, patch_size=16, resize="centred", pose_normalisation="none")
TRAIN = ["model=depthsplat", "scale=demo", "views.image_size=32"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rooms")
    assert run_stage("download", download, [*ROOMS, f"io.out={folder}/raw"]) == 0
    assert run_stage("preprocess", preprocess, [f"io.raw={folder}/raw", f"io.out={folder}/packed"]) == 0
    return folder


@pytest.fixture(scope="module")
def evaluated(data: Path) -> Path:
    cfg = compose("train", TRAIN)
    torch.manual_seed(0)
    save_weights(data / "model.safetensors", build(cfg.model), resolved(cfg))
    words = [f"io.{name}={data}/{name}" for name in ("raw", "packed")]
    words += [f"io.weights={data}/model.safetensors", f"io.out={data}/evaluation", "eval.splits=[full,gap6]"]
    assert run_stage("evaluate", evaluate, [*words, "eval.video_scenes=0", "eval.gallery=2", "eval.ply_scenes=2"]) == 0
    return data / "evaluation"


def truth_of(data: Path) -> tuple[PackedStore, Truth]:
    store = PackedStore(data / "packed/test")
    return store, Truth(*exact_depth(data / "raw", store))


@pytest.mark.parametrize(("factor", "relative", "close"), [(1.0, 0.0, 1.0), (1.1, 0.1, 1.0), (1.3, 0.3, 0.0)])
def test_depth_errors_are_what_a_scaled_truth_must_have(data: Path, factor, relative, close) -> None:
    store, truth = truth_of(data)
    batch = collate([FrameCache(store, VIEWS, 0).sample(store.scenes[0], [1, 6], 0)], 2).to_batch()
    assert truth.depth is not None
    found = depth_errors(
        GaussianScene(None, factor * true_depth(batch, truth.depth, 32, 32)[None], []), batch, truth.depth
    )
    assert found == {"abs_rel": pytest.approx(relative, abs=1e-5), "delta1": close}


def test_distances_are_one_way_each() -> None:
    plane = torch.stack(torch.meshgrid(torch.arange(20.0), torch.arange(20.0), indexing="ij"), dim=-1).flatten(0, 1)
    surface = torch.cat([plane, torch.zeros(400, 1)], dim=1)
    lifted = surface[:200] + torch.tensor([0.0, 0.0, 0.5])
    found = distances(lifted, surface)
    assert found["accuracy"] == pytest.approx(0.5)
    assert found["completeness"] > 1 and found["chamfer"] == pytest.approx((0.5 + found["completeness"]) / 2)
    assert distances(surface, surface)["chamfer"] == 0.0


def test_entries_are_counted_by_set_and_split(data: Path) -> None:
    store, _ = truth_of(data)
    entries = [EvalEntry(scene, (0, 6), (3,)) for scene in store.scenes]
    sets = {scene: "seen" if number < 2 else "new" for number, scene in enumerate(store.scenes)}
    splits = Splits.of(store, {"one": entries, "two": entries}, sets)
    picked = [(place.set, place.split) for _, places in first_entries(splits, 1) for place in places]
    assert sorted(picked) == [("new", "one"), ("new", "two"), ("seen", "one"), ("seen", "two")]
    assert first_entries(splits, 0) == []


def test_groups_are_means_with_intervals_over_scenes() -> None:
    rows = [
        {"scene": f"s{number}", "set": "seen", "split": "full", "entry": number, "abs_rel": 0.1 * number, "delta1": 1.0}
        for number in range(5)
    ]
    (found,) = geometry_groups(rows, 200, 0)
    assert found["scenes"] == found["count"] == 5 and "chamfer" not in found
    assert found["abs_rel"]["mean"] == pytest.approx(0.2) and found["delta1"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert found["abs_rel"]["low"] < 0.2 < found["abs_rel"]["high"]


def test_an_evaluation_measures_depth_and_writes_gaussians(evaluated: Path) -> None:
    summary = json.loads((evaluated / "summary.json").read_text())["geometry"]
    assert summary["reason"] is None and summary["ply"] == ["gaussians_0.ply", "gaussians_1.ply"]
    assert {(group["set"], group["split"]) for group in summary["groups"]} >= {("seen", "gap6"), ("new", "gap6")}
    assert all(set(MEASURES) < set(group) for group in summary["groups"])
    rows = json.loads((evaluated / "geometry.json").read_text())
    assert all(0 < row["abs_rel"] < 5 and 0 <= row["delta1"] <= 1 and row["chamfer"] > 0 for row in rows)
    header = (evaluated / "gaussians_0.ply").read_bytes()[:60]
    assert header.startswith(b"ply\nformat binary_little_endian 1.0\nelement vertex 2048\n")


@pytest.mark.slow
def test_another_evaluation_leaves_no_gaussians_of_the_one_before(evaluated: Path, data: Path) -> None:
    assert not list(evaluated.glob("*.partial*"))
    (evaluated / "gaussians_7.ply").write_bytes(b"old")
    words = [f"io.{name}={data}/{name}" for name in ("raw", "packed")]
    words += [f"io.weights={data}/model.safetensors", f"io.out={evaluated}", "eval.splits=[full,gap6]"]
    words += ["eval.video_scenes=0", "eval.gallery=2", "eval.ply_scenes=2"]
    assert run_stage("evaluate", evaluate, words) == 0
    assert [path.name for path in sorted(evaluated.glob("*.ply"))] == ["gaussians_0.ply", "gaussians_1.ply"]


def test_figure_and_table_show_depth_and_errors(evaluated: Path, tmp_path: Path) -> None:
    written = draw(Results([evaluated], figure="depth_maps"), tmp_path / "depth_maps")
    assert all(path.stat().st_size > 5000 for path in written)
    draw(Results([evaluated], study=Study(name="s"), figure="geometry_table"), tmp_path / "geometry")
    text = (tmp_path / "geometry.md").read_text()
    group = json.loads((evaluated / "summary.json").read_text())["geometry"]["groups"][0]
    assert f"{group['chamfer']['mean']:.3f}" in text and "Chamfer" in text and "gap6" in text
    assert (tmp_path / "geometry.csv").read_text().count("chamfer") == 4


def test_differences_are_taken_pair_by_pair(evaluated: Path, tmp_path: Path) -> None:
    copy = tmp_path / "other"
    shutil.copytree(evaluated, copy)
    rows = json.loads((copy / "geometry.json").read_text())
    (copy / "geometry.json").write_text(json.dumps([{**row, "chamfer": row["chamfer"] - 0.25} for row in rows]))
    one, other = read_evaluation(copy), read_evaluation(evaluated)
    found = differences(one, other, other.summary["geometry"]["groups"][0])
    assert found["psnr"] == found["abs_rel"] == Score(0.0, 0.0, 0.0) and "lpips" not in found
    assert (found["chamfer"].mean, found["chamfer"].low) == (pytest.approx(-0.25), pytest.approx(-0.25))
    summary = json.loads((copy / "summary.json").read_text())
    (copy / "summary.json").write_text(json.dumps({**summary, "model": "other"}))
    text = (copy / "rows.csv").read_text()
    (copy / "rows.csv").write_text(text.replace("\ndepthsplat,", "\nother,"))
    draw(Results([evaluated, copy], study=Study(name="s"), figure="geometry_table"), tmp_path / "geometry")
    assert "| gap6 | other − DepthSplat | 32 px | +0.00 [+0.00, +0.00] |" in (tmp_path / "geometry.md").read_text()


def test_the_report_links_to_the_gaussians(evaluated: Path) -> None:
    links = ply_links([read_evaluation(evaluated)], evaluated.parent / "study/report")
    assert [link["href"] for link in links] == [f"../../evaluation/gaussians_{number}.ply" for number in (0, 1)]


def test_models_without_depth_and_data_without_truth_say_so(data: Path, tmp_path: Path) -> None:
    store, truth = truth_of(data)
    splits = Splits.of(store, {"full": [EvalEntry(store.scenes[0], (0, 6), (3,))]}, {})
    device, cfg = torch.device("cpu"), EvalConfig(ply_scenes=0)
    cache = FrameCache(store, VIEWS, 0)
    other = build(compose("train", ["model=ptlvsm", "scale=demo"]).model)
    assert write_geometry(tmp_path, other, cache, truth, splits, cfg, device) is None
    model = build(compose("train", TRAIN).model)
    unknown = write_geometry(tmp_path, model, cache, Truth(), splits, cfg, device)
    assert unknown is not None and unknown["groups"] == [] and unknown["reason"].startswith("n/a")
    scaled = FrameCache(store, replace(VIEWS, pose_normalisation="scene"), 0)
    normalised = write_geometry(tmp_path, model, scaled, truth, splits, cfg, device)
    assert normalised is not None and "normalised" in normalised["reason"]
    assert not list(tmp_path.iterdir())


def test_a_study_without_depth_has_no_depth_maps(tmp_path: Path) -> None:
    from synthetic_results import write_results

    folders, _ = write_results(tmp_path)
    with pytest.raises(DataError, match="none of the evaluated models predicts depth"):
        depth_maps(Results(folders))
    draw(Results(folders, study=Study(name="s"), figure="geometry_table"), tmp_path / "geometry")
    assert "predicts no depth" in (tmp_path / "geometry.md").read_text()
