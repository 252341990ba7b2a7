"""Stage `depth`: arrays, pictures and their record, from sampled views and from an index; one-line errors. Figure and
table of depth: which runs are joined, what is printed, what is refused."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from import_samples import lact, run
from PIL import Image
from synthetic_results import write_results
from tiny_models import config, model_of
from tiny_splats import depthsplat

from novelview.config.digest import resolved
from novelview.config.schema import PackConfig, Study, ViewsConfig
from novelview.config.sources import OpencvCamerasSource
from novelview.config.stages import FiguresStage, TrainStage
from novelview.errors import DataError
from novelview.evaluation.clips import coloured
from novelview.evaluation.published import published
from novelview.figures.results import Results
from novelview.figures.scaling import depth_table, points
from novelview.models.registry import save_weights
from novelview.scenes.pack import pack_chunks
from novelview.stages.cli import run_stage
from novelview.stages.depth import depth
from novelview.stages.figures import figures

VIEWS = {"image_size": 32, "image_width": 48, "resize": "cover", "sampler": "random", "patch_size": 16}
SCENE = "object"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A packed scene of eight views, weights of a depth model with and without normalised poses, and of LaCT."""
    root = tmp_path_factory.mktemp("depth")
    run(OpencvCamerasSource(held_out=2), lact(root / SCENE), root / "raw")
    splits = {split: sorted((root / "raw" / split).glob("*.torch")) for split in ("train", "test")}
    pack_chunks(splits, root / "packed", PackConfig(), progress=False)
    model = depthsplat(train_depth_only=True)
    for poses in ("none", "scene"):
        stage = TrainStage(model=model.cfg, views=ViewsConfig(**VIEWS, pose_normalisation=poses))
        save_weights(root / f"{poses}.safetensors", model, resolved(stage))
    other = TrainStage(model=config("lact"), views=ViewsConfig(**{**VIEWS, "image_width": 42, "image_size": 28}))
    save_weights(root / "lact.safetensors", model_of("lact"), resolved(other))
    return root


def call(data: Path, out: Path, *words: str, weights: str = "none") -> int:
    paths = [f"io.packed={data / 'packed'}", f"io.weights={data / weights}.safetensors", f"io.out={out}"]
    return run_stage("depth", depth, [*paths, "runtime.device=cpu", *words])


def test_maps_and_pictures_of_every_view(data: Path, tmp_path: Path) -> None:
    assert call(data, tmp_path, "views=3") == 0
    record = json.loads((tmp_path / "depths.json").read_text())
    ((scene, frames),) = record["scenes"].items()
    assert len(frames) == 3 and (record["near"], record["far"]) == (1.0, 20.0)
    folder = tmp_path / scene
    for frame, spread in frames.items():
        found = np.load(folder / f"{int(frame):06d}.npy")
        assert found.shape == (32, 48) and found.dtype == np.float32
        assert spread["median"] == pytest.approx(float(np.median(found)))
        assert Image.open(folder / f"{int(frame):06d}.png").size == (48, 32)
    assert Image.open(folder / "concat.png").size == (3 * 48, 2 * 32)


def test_depth_comes_in_the_units_of_the_data(data: Path, tmp_path: Path) -> None:
    """With poses normalised the model sees depths of another unit: what is written has the data's again."""
    for poses in ("none", "scene"):
        assert call(data, tmp_path / poses, "views=2", weights=poses) == 0
    plain, scaled = (
        json.loads((tmp_path / poses / "depths.json").read_text())["scenes"] for poses in ("none", "scene")
    )
    (frames,) = plain.values()
    ratio = [next(iter(scaled.values()))[frame]["max"] / spread["max"] for frame, spread in frames.items()]
    assert all(abs(value - 1) > 0.01 for value in ratio), (
        "far is 20 units of the normalised scene, which are not the data's"
    )


def test_an_index_names_the_views(data: Path, tmp_path: Path) -> None:
    assert call(data, tmp_path / "first") == 0
    (scene,) = json.loads((tmp_path / "first/depths.json").read_text())["scenes"]
    rows = [{"context": [0, 2], "target": [1]}, {"context": [1, 3], "target": [2]}]
    (tmp_path / "index.json").write_text(json.dumps({scene: rows, "elsewhere": rows[0]}))
    assert call(data, tmp_path / "second", f"index={tmp_path / 'index.json'}", "npy=false", "concat=false") == 0
    made = json.loads((tmp_path / "second/depths.json").read_text())["scenes"]
    assert {name: sorted(frames) for name, frames in made.items()} == {scene: ["0", "2"], f"{scene}.1": ["1", "3"]}
    assert sorted(path.name for path in (tmp_path / "second" / scene).iterdir()) == ["000000.png", "000002.png"]


def test_another_size(data: Path, tmp_path: Path) -> None:
    assert call(data, tmp_path, "resolution=48x64", "png=false", "concat=false") == 0
    (found,) = {np.load(path).shape for path in tmp_path.glob("*/*.npy")}
    assert found == (48, 64)


@pytest.mark.parametrize(
    ("words", "weights", "message"),
    [
        (["resolution=40x64"], "none", "multiples of the patch size, 16"),
        (["views=1"], "none", "give 2 context views or more"),
        (["views=99"], "none", "ask for fewer"),
        (["scene=nowhere"], "none", "scene=nowhere"),
        ([], "lact", "predicts no depth"),
        (["index=nowhere.json"], "none", "nowhere.json"),
        (["select=best"], "none", "select=best"),
    ],
)
def test_a_mistake_is_one_line(data: Path, tmp_path: Path, capsys, words: list[str], weights: str, message: str):
    assert call(data, tmp_path / "out", *words, weights=weights) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("error: ") and message in said
    assert not (tmp_path / "out/depths.json").exists()


def test_near_is_at_the_red_end_for_all_views() -> None:
    depths = torch.linspace(1, 10, 2 * 16 * 16).view(2, 16, 16).numpy()
    colours = coloured(depths)
    near, far = colours[0, 0, 0].astype(int), colours[1, -1, -1].astype(int)
    assert near[0] > near[2] and near[1] < 60
    assert far[2] > far[1] or far[2] > 40
    assert (coloured(np.full((1, 4, 4), 2.0)) == coloured(np.full((1, 4, 4), 2.0))[0, 0, 0]).all()


STUDY = Study(name="deep", title="Deep", published="LVSM 2410.17242")
RUNS = {  # run -> model node, updates
    "lvsm_l6": ({"name": "lvsm_decoder_only", "n_layer": 1}, 50),
    "lvsm_l24": ({"name": "lvsm_decoder_only", "n_layer": 4}, 50),
    "lvsm_decoder_only": ({"name": "lvsm_decoder_only", "n_layer": 4}, 100),
    "lvsm_encoder_decoder": ({"name": "lvsm_encoder_decoder", "encoder_n_layer": 2, "decoder_n_layer": 3}, 100),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Evaluations of four runs whose PSNR is what the made-up results of PT-LVSM have, plus their depth."""
    found = []
    for name, (node, steps) in RUNS.items():
        root = tmp_path_factory.mktemp(name)
        [_, folder] = write_results(root)[0]
        text = (folder / "summary.json").read_text().replace("ptlvsm", name).replace('"gap23"', '"full"')
        summary = json.loads(text)
        summary["weights"]["config"] = {"model": node, "train": {"steps": steps, "seed": 1, "batch_size": 2}}
        for group in summary["groups"]:
            group["psnr"] = {key: value + node.get("n_layer", 5) for key, value in group["psnr"].items()}
        (folder / "summary.json").write_text(json.dumps(summary))
        found.append(folder)
    return found


def _draw(name: str, folders: list[Path], stem: Path) -> None:
    figures(FiguresStage(study=STUDY, figure=name, io={"inputs": [str(path) for path in folders], "out": str(stem)}))


def test_runs_are_ordered_by_recipe_and_depth(folders: list[Path]) -> None:
    found = [(point.evaluation.model, point.layers) for point in points(Results(folders).evaluations)]
    expected = [("lvsm_decoder_only", 4), ("lvsm_l6", 1), ("lvsm_l24", 4), ("lvsm_encoder_decoder", 5)]
    assert found == expected


def test_the_figure_repeats_byte_for_byte(folders: list[Path], tmp_path: Path) -> None:
    for turn in ("one", "two"):
        _draw("depth", folders, tmp_path / turn / "depth")
    for suffix in ("png", "svg"):
        first, second = ((tmp_path / turn / f"depth.{suffix}").read_bytes() for turn in ("one", "two"))
        assert first == second and len(first) > 2000


def test_the_table_has_our_rows_and_the_published_ones(folders: list[Path], tmp_path: Path) -> None:
    (table,) = depth_table(Results(folders, study=STUDY)).grids
    rows = {row.head[0]: row for row in table.rows}
    assert rows["LVSM decoder-only, 1/4 depth"].head[1:4] == ("1", "12,345", "50")
    assert rows["LVSM encoder-decoder"].head[1] == "5"
    assert rows["LVSM decoder-only, 12 layers"].cells[-1].whole == "28.61 / 0.89 / 0.111"
    assert {len(row.cells) for row in table.rows} == {len(table.columns)}
    _draw("depth_table", folders, tmp_path / "depth_table")
    with open(tmp_path / "depth_table.csv", newline="") as stream:
        records = list(csv.DictReader(stream))
    own = [row for row in records if (row["model"], row["set"], row["split"]) == ("lvsm_l6", "seen", "full")]
    assert float(own[0]["psnr"]) == pytest.approx(19.125 + 1.4 + 1)
    assert "28.61" in (tmp_path / "depth_table.tex").read_text()


def test_models_of_unknown_depth_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="figure depth: no evaluation"):
        _draw("depth", write_results(tmp_path)[0], tmp_path / "depth")


def test_the_published_main_rows_stand_beside_their_models() -> None:
    scores = {"lvsm_decoder_only": (29.67, 0.906, 0.098), "lvsm_encoder_decoder": (28.6, 0.893, 0.114)}
    for model, expected in scores.items():
        [row] = published("LVSM 2410.17242", "main", model, "full")
        assert (row.psnr, row.ssim, row.lpips) == expected and (row.resolution, row.grade) == (256, "primary")
    assert not [row.method for row in published("LVSM 2410.17242") if ":" in row.method]
