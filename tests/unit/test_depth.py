"""Figure and table of depth: which runs are joined, what is printed, what is refused."""

import csv
import json
from pathlib import Path

import pytest
from synthetic_results import write_results

from novelview.config.schema import Study
from novelview.config.stages import FiguresStage
from novelview.errors import DataError
from novelview.evaluation.published import published
from novelview.figures.results import Results
from novelview.figures.scaling import depth_table, points
from novelview.stages.figures import figures

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
