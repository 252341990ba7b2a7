"""Scaling: slopes are those put into the rows, intervals come from scenes, published slopes stand beside them."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic_results import SETS, SPLITS, STUDY, write_log, write_results

from novelview.config.stages import FiguresStage, ReportStage
from novelview.errors import DataError
from novelview.evaluation.published import PublishedRow, published
from novelview.evaluation.scores import ImageScores, read_rows, write_rows
from novelview.figures.results import Results
from novelview.figures.scaling import Line, fit, lines, orderings, pairs, scaling_table
from novelview.stages.figures import figures
from novelview.stages.report import report

SCENES = {"little": 4, "medium": 16, "large": 64, "full": 256}
SLOPES = {"uplvsm": 2.5, "ptlvsm": 0.5}


def write_run(
    root: Path, model: str, subset: str, spread: float = 0.0, noise: float = 0.0, slope: float | None = None
) -> Path:
    """Write one evaluation of 6 scenes of 2 images whose mean PSNR grows by the model's slope per subset.

    spread: dB between scenes, the same for all subsets; noise: dB by which a scene's gain differs from the mean."""
    run = root / model / f"rooms-{subset}" / "x56"
    (run / "evaluation").mkdir(parents=True)
    write_log(run / "train.csv")
    step = list(SCENES).index(subset)
    offsets = np.linspace(-1, 1, 6)
    psnr = (
        15 + (SLOPES[model] if slope is None else slope) * step + spread * offsets + noise * step * offsets[::-1] ** 3
    )
    rows = [
        ImageScores(model, f"scene{scene}", "seen", "full", scene, frame, float(psnr[scene]), 0.5, None, 0.5)
        for scene in range(6)
        for frame in (3, 5)
    ]
    write_rows(run / "evaluation/rows.csv", rows)
    score = {"mean": float(psnr.mean()), "low": float(psnr.mean()) - 0.5, "high": float(psnr.mean()) + 0.5}
    group = {"model": model, "set": "seen", "split": "full", "scenes": 6, "count": 12, "resampled": "scenes"}
    summary = {
        **{"model": model, "resolution": 56, "dataset": "rooms", "paired": [], "train_scenes": SCENES[subset]},
        "weights": {"config": {"subset": subset}},
        "groups": [group | {"psnr": score, "ssim": None, "lpips": None}],
    }
    (run / "evaluation/summary.json").write_text(json.dumps(summary))
    return run / "evaluation"


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return [write_run(tmp_path, model, subset, 2.0, 0.3) for model in SLOPES for subset in SCENES]


def test_slopes_are_gains_per_four_times_the_scenes(folders: list[Path]) -> None:
    found = {line.model: line for line in lines(Results(folders).ladder)}
    for model, slope in SLOPES.items():
        line = found[model]
        assert line.scenes == (4, 16, 64, 256) and line.subsets == tuple(SCENES)
        assert line.slope.mean == pytest.approx(slope, abs=1e-5) and line.at(64) == pytest.approx(15 + 2 * slope)
        assert line.slope.low < slope - 0.05 and line.slope.high > slope + 0.05


def test_what_all_subsets_share_leaves_the_interval(tmp_path: Path) -> None:
    folders = [write_run(tmp_path, "uplvsm", subset, spread=5.0) for subset in SCENES]
    (line,) = lines(Results(folders).ladder)
    assert line.slope.high - line.slope.low < 1e-5


def test_a_fit_of_uneven_counts_is_least_squares() -> None:
    scenes, psnr = (1202, 4121, 16449, 66033), np.array([21.0, 23.7, 26.1, 28.8])
    slope, level = fit(scenes, psnr)
    residual = psnr - (level + slope * np.log(scenes) / np.log(4))
    assert abs(residual.sum()) < 1e-9 and abs(residual @ np.log(scenes)) < 1e-8
    assert slope == pytest.approx(2.68, abs=0.05)


def test_figure_and_table_stand_beside_the_published_slopes(folders: list[Path], tmp_path: Path) -> None:
    for name in ("scaling", "scaling_table"):
        io = {"inputs": [str(folder) for folder in folders], "out": str(tmp_path / "drawn" / name)}
        figures(FiguresStage(study=STUDY, figure=name, io=io))
    written = {path.name for path in (tmp_path / "drawn").iterdir()}
    assert written == {f"scaling.{end}" for end in ("svg", "png")} | {
        f"scaling_table.{e}" for e in ("md", "tex", "csv")
    }
    text = (tmp_path / "drawn/scaling_table.md").read_text()
    for gain in ("+0.12", "+0.39", "+0.64", "+1.72", "+2.63"):
        assert f"| {gain} |" in text
    with open(tmp_path / "drawn/scaling_table.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["subset"], int(row["scenes"])) for row in rows[:4]] == list(SCENES.items()) and len(rows) == 8


def test_other_tables_and_curves_show_the_largest_subset(folders: list[Path]) -> None:
    kept = Results(folders).evaluations
    assert [(item.model, item.subset) for item in kept] == [("ptlvsm", "full"), ("uplvsm", "full")]
    curves = Results(folders, [folder.parent / "train.csv" for folder in folders]).curves
    assert sorted((curve.model, curve.data) for curve in curves) == [("ptlvsm", "rooms-full"), ("uplvsm", "rooms-full")]


def test_one_subset_alone_or_other_images_are_one_line(tmp_path: Path) -> None:
    one = write_run(tmp_path, "uplvsm", "little")
    with pytest.raises(DataError, match="trained on two subsets or more"):
        lines(Results([one]).ladder)
    other = write_run(tmp_path, "uplvsm", "full")
    text = (other / "rows.csv").read_text()
    (other / "rows.csv").write_text(text.replace("scene5", "scene9"))
    with pytest.raises(DataError, match="judged on other images"):
        lines(Results([one, other]).ladder)


def test_a_model_missing_on_a_subset_leaves_a_gap_in_the_table(tmp_path: Path) -> None:
    folders = [write_run(tmp_path, "uplvsm", subset) for subset in SCENES]
    folders += [write_run(tmp_path, "ptlvsm", subset) for subset in ("little", "full")]
    rows = scaling_table(Results(folders, study=STUDY)).grids[0].rows
    assert [cell.text for cell in rows[0].cells][:4] == ["15.00", "–", "–", "16.50"]


def ladder(folder: Path, slopes: dict[str, float], noise: float = 0.05) -> list[Line]:
    """Return a line a model; the noise of every second one has the other sign, or it would cancel in differences."""
    own = [
        write_run(folder, model, subset, 2.0, noise * (-1) ** number, slope)
        for number, (model, slope) in enumerate(slopes.items())
        for subset in SCENES
    ]
    return lines(Results(own).ladder)


def gains() -> list[PublishedRow]:
    return published("Less3Depend/UP-LVSM 2506.09885", "scaling_gain")


def test_the_order_of_slopes_is_judged_by_intervals(tmp_path: Path) -> None:
    slopes = {"uplvsm": 0.9, "ptlvsm": 0.9, "lvsm_decoder_only": 0.2, "depthsplat_mv": 1.5, "lact": 0.7}
    found = pairs(ladder(tmp_path, slopes), gains())
    told = {(pair.first, pair.second): (pair.verdict, round(pair.ours.mean, 2)) for pair in found}
    assert told == {
        ("uplvsm", "depthsplat_mv"): ("disagrees", -0.6),
        ("uplvsm", "lvsm_decoder_only"): ("agrees", 0.7),
        ("ptlvsm", "depthsplat_mv"): ("disagrees", -0.6),
        ("ptlvsm", "lvsm_decoder_only"): ("agrees", 0.7),
        ("uplvsm", "ptlvsm"): ("undecided", 0.0),
        ("lvsm_decoder_only", "depthsplat_mv"): ("disagrees", -1.3),
    }
    assert [pair.published for pair in found] == sorted((pair.published for pair in found), reverse=True)
    assert found[0].published == pytest.approx(2.63 - 0.39)


def test_the_report_says_where_the_order_agrees_and_where_not(tmp_path: Path) -> None:
    slopes = {"uplvsm": 0.9, "ptlvsm": 0.9, "lvsm_decoder_only": 0.2, "depthsplat_mv": 1.5, "lact": 0.7}
    head, said, caveat = orderings(ladder(tmp_path, slopes), gains())
    assert "UP-LVSM +2.63, PT-LVSM +1.72, LVSM +0.64, MVSplat +0.39, NoPoSplat +0.12" in head
    assert "DepthSplat, matching alone stands for MVSplat" in head and "missing: LaCT, NoPoSplat." in head
    assert "pairs of systems in the published order: 2 of 6, in the opposite one: 3, undecided: 1" in said
    assert said.index("Agree: ") < said.index("Disagree: ") < said.index("Undecided, the interval holds 0: ")
    assert "LVSM decoder-only over DepthSplat, matching alone −1.30 dB [" in said and "published +0.25" in said
    assert "another training seed" in caveat


def test_nothing_is_said_of_an_order_that_cannot_be_compared(tmp_path: Path) -> None:
    assert orderings(ladder(tmp_path / "one", {"uplvsm": 0.9, "lact": 0.7}), gains()) == []
    assert orderings(ladder(tmp_path / "two", {"uplvsm": 0.9, "ptlvsm": 0.7}), []) == []
    first, second = ladder(tmp_path / "three", {"uplvsm": 0.9, "ptlvsm": 0.7})
    other = replace(second, images=second.images[1:])
    assert pairs([first, other], gains()) == []
    assert "no two systems were trained and judged alike" in orderings([first, other], gains())[1]


def grown(root: Path, subset: str, gains: dict[str, float]) -> tuple[list[Path], list[Path]]:
    """Write made-up results of both models after one subset: whole evaluations, with rows of the models themselves."""
    folders, logs = write_results(root / subset)
    for folder in folders:
        summary = json.loads((folder / "summary.json").read_text())
        model, step = summary["model"], list(SCENES).index(subset)
        summary |= {"train_scenes": SCENES[subset]}
        summary["weights"]["config"]["subset"] = subset
        (folder / "summary.json").write_text(json.dumps(summary))
        places = [(name, split, scene) for name in SETS for split in SPLITS for scene in range(4)]
        rows = [
            ImageScores(
                model, f"{name}{scene}", name, split, scene, 3, 15 + gains[model] * step + scene, 0.5, None, 0.5
            )
            for name, split, scene in places
        ]
        write_rows(folder / "rows.csv", [*read_rows(folder / "rows.csv"), *rows])
    return folders, logs


def test_the_report_prints_the_order_of_slopes_under_the_figure(tmp_path: Path) -> None:
    gains = {"uplvsm": 0.2, "ptlvsm": 0.6}
    made = [grown(tmp_path, subset, gains) for subset in ("little", "full")]
    folders, logs = ([str(path) for pair in made for path in pair[number]] for number in (0, 1))
    figures(FiguresStage(study=STUDY, figure="scaling", io={"inputs": folders, "out": str(tmp_path / "drawn/scaling")}))
    io = {"inputs": folders, "curves": logs, "figures": str(tmp_path / "drawn"), "out": str(tmp_path / "index.html")}
    report(ReportStage(study=STUDY, scale="mini", io=io))
    page = (tmp_path / "index.html").read_text()
    section = page[page.index('<section id="scaling">') :]
    section = section[: section.index("</section>")]
    assert "pairs of systems in the published order: 0 of 1, in the opposite one: 1, undecided: 0" in section
    assert section.count("<p>") >= 4 and "Disagree: UP-LVSM over PT-LVSM" in section
