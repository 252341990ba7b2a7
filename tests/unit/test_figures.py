"""Figures and tables from made-up results: files appear, repeat byte for byte, and say what the numbers say. The
attention overlay: which patch is red, where the colours lie, and what is refused."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from synthetic_results import SETS, SPLITS, STUDY, scores, write_results

from novelview.config.schema import Study
from novelview.config.stages import FiguresStage
from novelview.errors import ConfigError, DataError, NovelviewError
from novelview.figures.pictures import (
    STOPS,
    colours,
    error_map,
    overlay,
    overlays,
    psnr,
    read_gallery,
    shared_samples,
    spread,
)
from novelview.figures.plots import group_phases, read_paths
from novelview.figures.results import Curve, Results, Score, read_evaluation
from novelview.figures.results_table import results_table, statements
from novelview.figures.style import label, split_order
from novelview.figures.tables import difference, escape_latex, verdict
from novelview.stages.figures import figures

PLOTS = ("training_curves", "qualitative", "attention", "camera_paths", "gaps")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Path], list[Path]]:
    return write_results(tmp_path_factory.mktemp("results"))


def draw(name: str, results: tuple[list[Path], list[Path]], stem: Path, study: Study = STUDY) -> None:
    folders, logs = ([str(path) for path in paths] for paths in results)
    figures(FiguresStage(study=study, figure=name, io={"inputs": folders, "curves": logs, "out": str(stem)}))


@pytest.mark.parametrize("name", PLOTS)
def test_figure_is_drawn_and_repeats_byte_for_byte(name: str, results, tmp_path: Path) -> None:
    for turn in ("one", "two"):
        draw(name, results, tmp_path / turn / name)
    written = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert written == [f"{name}.png", f"{name}.svg"]
    for file in written:
        first, second = ((tmp_path / turn / file).read_bytes() for turn in ("one", "two"))
        assert first == second and len(first) > 2000


def test_table_files_hold_the_summarys_numbers(results, tmp_path: Path) -> None:
    draw("results_table", results, tmp_path / "results_table")
    with open(tmp_path / "results_table.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    summary = json.loads((results[0][0] / "summary.json").read_text())
    for group in summary["groups"]:
        key = {name: group[name] for name in ("model", "set", "split")}
        found = [
            row for row in rows if row["table"] == "scores" and row["metric"] == "psnr" and key.items() <= row.items()
        ]
        assert float(found[0]["mean"]) == group["psnr"]["mean"] and int(found[0]["count"]) == group["count"]
    text = (tmp_path / "results_table.md").read_text()
    for model in ("uplvsm", "ptlvsm"):
        for value in (scores(model, name, split)[model] for name in SETS for split in SPLITS):
            assert f"{value:.2f} / 0.600 / n/a / 0.700" in text
    assert "n/a (weights not downloaded)" in text
    assert "29.51 / 0.901 / 0.098" in text and "What differs" in text


def test_latex_table_balances_and_escapes(results, tmp_path: Path) -> None:
    draw("results_table", results, tmp_path / "table")
    text = (tmp_path / "table.tex").read_text()
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == text.count(r"\toprule") == 5
    assert "−" not in text and "$-$" in text
    for body in text.split(r"\midrule")[1:]:
        lines = [line for line in body.split(r"\bottomrule")[0].splitlines() if line.endswith(r"\\")]
        assert len({line.count(" & ") for line in lines}) == 1
    assert escape_latex("a_b & 95 %") == r"a\_b \& 95 \%"


def test_table_shows_losses_with_their_baseline(results) -> None:
    grids = results_table(Results(results[0], study=STUDY)).grids
    margins = next(table for table in grids if table.title.startswith("Difference"))
    cells = {cell.whole: cell.tone for row in margins.rows for cell in row.cells}
    assert cells["−0.70 [−0.95, −0.45] M"] == "loss"
    assert cells["+1.40 [1.15, 1.65] M"] == "win"
    assert cells["+0.20 [−0.05, 0.45] M"] == "tie"


def test_study_without_published_rows_says_so(results, tmp_path: Path) -> None:
    draw("results_table", results, tmp_path / "table", Study(name="photos", title="Photos"))
    text = (tmp_path / "table.md").read_text()
    assert "No published rows exist for this study." in text and "Measured on" not in text
    assert "No published rows exist for this study." in (tmp_path / "table.tex").read_text()


def test_best_score_is_marked_whoever_has_it(results) -> None:
    table = results_table(Results(results[0], study=STUDY)).grids[0]
    best = {
        column: [row.head[0] for row in table.rows if row.cells[place].best]
        for place, column in enumerate(table.columns)
    }
    assert best["large"] == ["Mean of contexts"] and best["gap23"] == ["PT-LVSM"]
    given = {row.head[0]: row.head[2] for row in table.rows}
    assert given["UP-LVSM"] == "target image" and given["PT-LVSM"] == "target pose"


def test_statements_say_wins_losses_and_ties(results) -> None:
    found = statements([read_evaluation(folder) for folder in results[0]])
    texts = {item.text: item.verdict for item in found}
    assert texts["PT-LVSM at 28 px, gap23, seen set: +1.40 dB [1.15, 1.65] over the mean of the context views"] == "win"
    assert (
        texts["PT-LVSM at 28 px, large, seen set: −0.70 dB [−0.95, −0.45] against the mean of the context views"]
        == "loss"
    )
    assert sum(item.about == "baseline" for item in found) == 2 * len(SETS) * len(SPLITS)
    assert sum(item.about == "pose" for item in found) == 2 * len(SETS) * len(SPLITS)


@pytest.mark.parametrize(
    ("low", "high", "kind"), [(0.1, 0.2, "win"), (-0.2, -0.1, "loss"), (-0.1, 0.1, "tie"), (0, 1, "tie")]
)
def test_verdict_needs_the_interval_off_zero(low: float, high: float, kind: str) -> None:
    assert verdict(Score((low + high) / 2, low, high)) == kind


def test_difference_never_prints_minus_zero() -> None:
    assert difference(Score(-0.001, -0.6, -0.002)) == "+0.00 dB [−0.60, 0.00]"


def test_gallery_finds_the_copied_view_and_its_score(results) -> None:
    sample = read_gallery(read_evaluation(results[0][0]))[0]
    assert np.array_equal(sample.nearest, sample.context[1])
    assert psnr(sample.nearest, sample.target) == pytest.approx(sample.psnr_nearest, abs=1e-4)
    assert sample.psnr == 12.34
    assert psnr(np.full((2, 2, 3), 0.5), np.full((2, 2, 3), 0.6)) == pytest.approx(20.0)
    assert error_map(np.zeros((2, 2, 3)), np.ones((2, 2, 3))).tolist() == [[1, 1], [1, 1]]


def test_samples_of_models_line_up_and_rows_are_shared_out(results) -> None:
    galleries = [read_gallery(read_evaluation(folder)) for folder in results[0]]
    rows = shared_samples([galleries[0], galleries[1][:1]])
    assert [sum(one is not None for one in row) for row in rows] == [2, 1]
    assert len(spread(rows, 1)) == 1 and spread(rows, 9) == rows


def test_attention_overlay_marks_patch_and_scales_to_own_range(results) -> None:
    sample = read_gallery(read_evaluation(results[0][0]))[0]
    marked, coloured = overlays(sample, (0.7, 0.3))
    changed = np.abs(marked - sample.context[0]).max(axis=2) > 1e-6
    assert changed[14:, :14].any() and not changed[:14].any() and not changed[:, 14:].any()
    assert coloured.shape == sample.context[1].shape
    heat = (2 * coloured - sample.context[1])[::14, ::14].reshape(-1, 3)
    assert sample.attention is not None
    weights = sample.attention[2]
    assert heat[weights.argmin()] == pytest.approx([0.267, 0.005, 0.329], abs=1e-5)
    assert heat[weights.argmax()] == pytest.approx([0.993, 0.906, 0.144], abs=1e-5)


def test_camera_path_title_has_both_errors(results) -> None:
    path = read_paths(read_evaluation(results[0][0]))[0]
    assert path.errors == "rotation 3.2°, translation 0.100 (spread 0.354)"


def test_curves_are_named_by_their_path_and_phases_in_order(results) -> None:
    curve = Curve(results[1][0])
    assert (curve.model, curve.data, str(curve.resolution), curve.steps) == ("uplvsm", "rooms-full", "28", 150)
    assert curve.columns["skipped"].sum() == 2 and np.isnan(curve.columns["grad_norm"][1])
    assert [len(group) for group in group_phases([curve, Curve(results[1][1])])] == [1, 1]


def test_splits_are_ordered_from_easy_to_hard() -> None:
    names = ["gap23", "small", "full", "gap12", "large", "held_out", "medium", "extrapolation"]
    expected = ["large", "medium", "small", "extrapolation", "full", "held_out", "gap12", "gap23"]
    assert sorted(names, key=split_order) == expected
    assert label("uplvsm_swapped_pose") == "UP-LVSM, another target's pose"


@pytest.mark.parametrize("name", [*PLOTS, "results_table"])
def test_missing_inputs_are_one_line(name: str, tmp_path: Path) -> None:
    for given in (([], []), ([tmp_path / "gone"], [tmp_path / "gone.csv"])):
        with pytest.raises(DataError) as caught:
            draw(name, given, tmp_path / "figure")
        assert "\n" not in str(caught.value) and ("io." in str(caught.value) or "gone" in str(caught.value))
    assert not list(tmp_path.glob("figure*"))


def test_unknown_figure_names_the_known_ones(results, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"figure 'pie' does not exist; choose one of .*gaps"):
        draw("pie", results, tmp_path / "pie")


@pytest.mark.parametrize(
    ("file", "content", "name"),
    [
        ("summary.json", "{}", "gaps"),
        ("summary.json", "not json", "results_table"),
        ("gallery.safetensors", "junk", "qualitative"),
        ("poses.json", "[{}]", "camera_paths"),
        ("../train.csv", "step,loss\n1,2\n", "training_curves"),
        ("../train.csv", "", "training_curves"),
    ],
)
def test_damaged_inputs_are_one_line_naming_the_file(file: str, content: str, name: str, tmp_path: Path) -> None:
    results = write_results(tmp_path)
    (results[0][0] / file).write_text(content)
    with pytest.raises(NovelviewError) as caught:
        draw(name, results, tmp_path / "figure")
    assert Path(file).name in str(caught.value) and "\n" not in str(caught.value)


def test_figures_draw_without_torch() -> None:
    code = "import sys, novelview.stages.figures, novelview.stages.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


ROWS, COLUMNS, SIZE = 2, 3, 4
COUNT = ROWS * COLUMNS
VIEWS = np.zeros((ROWS * SIZE, COLUMNS * SIZE, 3)), np.ones((ROWS * SIZE, COLUMNS * SIZE, 3))


def test_one_patch_is_red_and_the_other_view_coloured() -> None:
    attention = np.zeros((2 * COUNT, 2 * COUNT))
    attention[4, COUNT + 2] = 0.3
    marked, coloured = overlay(attention, *VIEWS, patch=4, size=SIZE)
    red = np.zeros_like(marked)
    red[4:8, 4:8, 0] = 0.5
    np.testing.assert_allclose(marked, red)
    expected = np.broadcast_to(0.5 + 0.5 * STOPS[0], coloured.shape).copy()
    expected[0:4, 8:12] = 0.5 + 0.5 * STOPS[-1]
    np.testing.assert_allclose(coloured, expected)
    assert not VIEWS[0].any() and VIEWS[1].all(), "the pictures given are left as they are"


def test_even_attention_has_one_colour() -> None:
    _, coloured = overlay(np.full((2 * COUNT, 2 * COUNT), 0.1), *VIEWS, patch=0, size=SIZE)
    np.testing.assert_allclose(coloured, np.broadcast_to(0.5 + 0.5 * STOPS[0], coloured.shape))


def test_colours_are_straight_lines_between_the_stops() -> None:
    np.testing.assert_allclose(colours(np.array([0, 1 / 3, 2 / 3, 1])), STOPS)
    np.testing.assert_allclose(colours(np.array([1 / 6])), STOPS[:2].mean(axis=0)[None])


@pytest.mark.parametrize("patch", [-1, COUNT])
def test_a_patch_outside_the_view_is_refused(patch: int) -> None:
    with pytest.raises(DataError, match=f"patch {patch} does not exist"):
        overlay(np.zeros((2 * COUNT, 2 * COUNT)), *VIEWS, patch=patch, size=SIZE)


def test_a_map_of_three_views_is_refused() -> None:
    with pytest.raises(DataError, match="two views"):
        overlay(np.zeros((3 * COUNT, 3 * COUNT)), *VIEWS, patch=0, size=SIZE)
