"""Study `posefree`: which evaluations it plans, and its tables and figure from made-up scores."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dvc_yaml import pipeline
from novelview.config.plan import Plan
from novelview.config.schema import Study
from novelview.config.study import _check, load_study
from novelview.errors import ConfigError, DataError
from novelview.evaluation.scores import ImageScores, read_rows, write_rows
from novelview.figures.posefree import absent, common, difference, judgements, posefree_table
from novelview.figures.results import Results
from novelview.figures.tables import Grid
from novelview.stages.figures import draw

STUDY = Study(
    name="posefree", title="Poses", models=["lvsm_decoder_only", "uplvsm"], poses={"demo": ["colmap", "vggt"]}
)
CLASSES = {"large": 24.0, "small": 20.0}
SCENES = ("s0", "s1", "s2", "s3")
LOST = {"s3"}  # the estimator placed no frame of it
COST = 1.5  # dB, what estimated cameras cost here


def write(folder: Path, model: str, cameras: str, lost: set[str] = LOST) -> Path:
    """Write an evaluation whose posed model has 1 dB more than the free one, and `COST` less on estimated cameras."""
    folder.mkdir(parents=True)
    posed = model != "uplvsm"
    rows = [
        ImageScores(
            model,
            scene,
            "new",
            split,
            number,
            frame,
            level + 0.1 * number + posed - COST * (cameras != "given"),
            0.5,
            None,
            0.5,
        )
        for split, level in CLASSES.items()
        for number, scene in enumerate(SCENES)
        for frame in (1, 2)
        if cameras == "given" or scene not in lost
    ]
    write_rows(folder / "rows.csv", rows)
    facts: dict = {"estimator": cameras}
    if cameras != "given":
        counts = {"scenes": 4, "placed_scenes": 3, "asked_frames": 32, "placed_frames": 24, "rotation_deg": 1.25}
        entries = {split: {"index": 4, "kept": 3} for split in CLASSES}
        facts |= {"align": "sim3", "summary": {**counts, "reprojection_px": None}, "entries": entries}
    groups = [{"model": model, "set": "new", "split": split, "count": 8, "psnr": None} for split in CLASSES]
    summary = {"model": model, "resolution": 56, "dataset": f"rooms-{cameras}", "groups": groups, "paired": []}
    summary |= {"given": {"context_poses": posed, "target_poses": posed, "target_images": not posed}, "cameras": facts}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def tables(folders: list[Path]) -> tuple[Grid, ...]:
    return posefree_table(Results(folders, study=STUDY)).grids


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    return [
        write(tmp_path / "lvsm" / "evaluation", "lvsm_decoder_only", "given"),
        write(tmp_path / "lvsm" / "evaluation-colmap", "lvsm_decoder_only", "colmap"),
        write(tmp_path / "uplvsm" / "evaluation", "uplvsm", "given"),
    ]


def test_scores_stand_side_by_side_on_the_targets_all_estimators_placed(folders: list[Path]) -> None:
    found = judgements(Results(folders))
    assert [one.cameras for one in found] == ["given", "colmap", "given"]
    targets = common(found, ("new", "large"))
    assert len(targets) == 6 and not any(scene in LOST for scene, _, _ in targets)
    table = tables(folders)[0]
    printed = {row.head: [cell.text for cell in row.cells] for row in table.rows}
    assert table.columns == ("large", "small")
    assert printed["LVSM decoder-only", "56 px", "given"] == ["25.10", "21.10"]
    assert printed["LVSM decoder-only", "56 px", "COLMAP"] == ["23.60", "19.60"]
    assert printed["UP-LVSM", "56 px", "none"] == ["24.10", "20.10"]
    assert [row.head[2] for row in table.rows if row.cells[0].best] == ["given"]


def test_an_estimator_that_was_not_run_is_a_row_with_its_reason(folders: list[Path], tmp_path: Path) -> None:
    assert absent(judgements(Results(folders)), STUDY, "mini") == {}
    paths = draw(Results(folders, study=STUDY, figure="posefree_table"), tmp_path / "posefree_table")
    text = paths[0].read_text()
    assert "| LVSM decoder-only | 56 px | VGGT | n/a | n/a |" in text
    assert "VGGT: n/a, its weights pretrained/vggt_1b.safetensors were not here" in text and "fetch vggt" in text
    assert "| VGGT | n/a |" in text and "| UP-LVSM | 56 px | VGGT" not in text
    records = paths[2].read_text().splitlines()
    assert records[0].startswith("model,resolution,cameras") and len(records) == 1 + 3 * 3 * 2


def test_the_cost_of_estimated_cameras_is_paired(folders: list[Path]) -> None:
    found = judgements(Results(folders))
    score, each = difference(found[1], found[0], ("new", "small"))
    assert len(each) == 6 and abs(score.mean + COST) < 1e-5 and abs(score.high + COST) < 1e-5
    costs, cameras = tables(folders)[1:]
    printed = {row.head[3]: row.cells[0] for row in costs.rows}
    assert printed["given cameras"].text == "−1.50" and printed["given cameras"].tone == "loss"
    assert printed["UP-LVSM"].text == "−0.50"
    assert [cell.text for cell in cameras.rows[0].cells][:4] == ["3 of 4", "24 of 32", "3 of 4", "3 of 4"]


def test_a_split_without_a_placed_entry_keeps_the_others_scores(tmp_path: Path) -> None:
    folders = [
        write(tmp_path / "a", "lvsm_decoder_only", "given"),
        write(tmp_path / "b", "lvsm_decoder_only", "colmap", {*SCENES[:3], *LOST}),
    ]
    rows = [row for row in read_rows(folders[0] / "rows.csv") if row.split == "large" and row.scene == "s0"]
    write_rows(folders[1] / "rows.csv", rows)
    table = tables(folders)[0]
    assert [[cell.text for cell in row.cells] for row in table.rows[:2]] == [["25.00", "21.15"], ["25.00", "–"]]


def test_the_figure_draws_every_target_at_its_cameras_error(folders: list[Path], tmp_path: Path) -> None:
    errors = {"rotation_deg": [0.5, 1.0, 2.0], "translation": [0.1, 0.2, 0.0], "spread": 0.5, "placed": [0, 1, 2]}
    record = tmp_path / "poses.json"
    record.write_text(json.dumps({"estimator": "colmap", "scenes": dict.fromkeys(SCENES[:3], errors)}))
    results, bare = (Results(folders, extras=extras, figure="posefree") for extras in ([record], []))
    paths = draw(results, tmp_path / "posefree")
    wide, alone = (np.asarray(Image.open(path)) for path in (paths[1], draw(bare, tmp_path / "only")[1]))
    assert wide.std() > 5 and wide.shape[1] > alone.shape[1]
    first = paths[0].read_bytes()
    assert draw(results, tmp_path / "posefree")[0].read_bytes() == first


def test_estimated_cameras_stand_beside_given_ones_nowhere_else(folders: list[Path], tmp_path: Path) -> None:
    assert len(Results(folders).evaluations) == 2
    with pytest.raises(DataError, match="estimated cameras"):
        _ = Results([folders[1]]).evaluations
    with pytest.raises(DataError, match="given cameras"):
        tables([folders[1]])


def test_every_posed_run_is_judged_on_every_estimators_cameras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = Plan({"study": "posefree"})
    assert plan.estimators == ["colmap"]  # VGGT's weights are not here
    extra = [one for one in plan.evaluations if one.estimator]
    posed = [run for run in plan.runs() if run.name != "uplvsm"]
    assert [one.run for one in extra] == posed and len(plan.evaluations) == len(plan.runs()) + len(posed)
    assert extra[0].folder == f"{posed[0].folder}/evaluation-colmap" and extra[0].metrics.endswith(
        "/metrics-colmap.json"
    )
    assert plan.datasets == {"rooms-textured": "", "rooms-textured-colmap": "colmap"}
    assert plan.composed("evaluate", "colmap").dataset == "rooms-textured-colmap"
    assert plan.stage("evaluate", "colmap")["digest"] != plan.stage("evaluate")["digest"]
    assert plan.overrides("poses", "colmap") == ["scale=demo", "poses=colmap", "dataset=rooms-textured"]
    assert Plan({"study": "posefree", "scale": "paper", "path": "."}).estimators == ["colmap", "vggt"]


def test_a_setting_reaches_the_estimators_that_have_it() -> None:
    plan = Plan({"study": "posefree", "set": "poses.seed=1 poses.mode=pad poses.max_frames=9 align=scale"})
    words = {name: plan.overrides("poses", name)[3:] for name in ("colmap", "vggt")}
    assert words["colmap"] == ["poses.seed=1", "poses.max_frames=9", "align=scale"]
    assert words["vggt"] == ["poses.mode=pad", "poses.max_frames=9", "align=scale"]
    with pytest.raises(ConfigError, match=r"poses\.sede"):
        Plan({"study": "posefree", "set": "poses.sede=1"})


def test_weights_that_are_here_bring_their_estimator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pretrained").mkdir()
    (tmp_path / "pretrained" / "vggt_1b.safetensors").write_bytes(b"")
    plan = Plan({"study": "posefree", "set": "align=scale"})
    assert plan.estimators == ["colmap", "vggt"] and plan.composed("poses", "vggt").align == "scale"
    stages = pipeline(plan)["stages"]
    outs = [next(iter(entry)) for entry in stages["poses"]["outs"]]
    assert outs == ["data/rooms-textured-colmap/raw", "data/rooms-textured-vggt/raw"]
    assert "data/rooms-textured-colmap/raw" in stages["preprocess"]["deps"]
    assert any("metrics-vggt.json" in next(iter(entry)) for entry in stages["evaluate"]["metrics"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"poses": {"demo": ["droid"]}}, ["droid", "colmap, vggt"]),
        ({"poses": {"demo": ["given"]}}, ["given", "colmap, vggt"]),
        ({"poses": {"demo": ["colmap", "colmap"]}}, ["once"]),
        ({"pose_free": ["nerf"]}, ["nerf", "uplvsm"]),
    ],
)
def test_a_mistake_in_the_study_is_one_line(changes: dict, words: list[str]) -> None:
    study = Study(name="made", models=["uplvsm"], phases=["pretrain"], **changes)
    with pytest.raises(ConfigError) as caught:
        _check(study, "conf/study/made.yaml")
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)
    assert load_study("posefree").pose_free == ["uplvsm"]
