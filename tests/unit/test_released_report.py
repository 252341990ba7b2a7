"""Released checkpoints in the report: beside what was trained here, each labelled, or one line that there is none."""

import json
import shutil
from pathlib import Path

import pytest
from synthetic_results import write_evaluation, write_results
from test_report import Page

from novelview.config.schema import Study, StudyData
from novelview.config.stages import ReportStage
from novelview.errors import DataError
from novelview.figures.released import training_words
from novelview.stages.report import report

STUDY = Study(name="made-up", showcase={"demo": StudyData("rooms_showcase", "rooms-showcase", "showcase")})
PHASES = [
    {"steps": 5000, "batch_size": 24, "grad_accum": 1, "size": "112"},
    {"steps": 1500, "batch_size": 6, "grad_accum": 2, "size": "252"},
]


def shown(root: Path, name: str) -> Path:
    """Write the evaluation of a released checkpoint, whose header says how it was trained."""
    folder = root / "showcase" / name / "evaluation"
    folder.mkdir(parents=True)
    write_evaluation(folder, "uplvsm", 28)
    summary = json.loads((folder / "summary.json").read_text())
    summary["dataset"] = "rooms-showcase"
    header = {"scale": "mini", "dataset": "rooms-mini", "released": {"name": name, "phases": PHASES}}
    summary["weights"]["config"] |= header
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def write(root: Path, showcase: list[Path], study: Study = STUDY, scale: str = "demo") -> str:
    folders, logs = write_results(root / "results")
    (root / "figures").mkdir()
    io = {"inputs": folders, "curves": logs, "showcase": showcase}
    named = {key: [str(path) for path in paths] for key, paths in io.items()}
    named |= {"figures": str(root / "figures"), "out": str(root / "index.html")}
    report(ReportStage(study=study, scale=scale, io=named))
    return (root / "index.html").read_text()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("shown")
    return write(root, [shown(root, "first_mini"), shown(root, "second_mini")])


def test_with_nothing_released_one_line_says_so_and_why(tmp_path: Path) -> None:
    text = write(tmp_path, [])
    assert text.count("No checkpoint has been released yet") == 1 and "scale=mini" in text
    assert "released" not in Page(text).ids and "from scratch" not in text
    for number, (study, scale) in enumerate(((STUDY, "mini"), (Study(name="photos"), "demo"))):
        (tmp_path / str(number)).mkdir()
        assert "No checkpoint has been released" not in write(tmp_path / str(number), [], study, scale)


def test_every_released_model_and_every_own_one_is_labelled(page: str) -> None:
    parsed = Page(page)
    assert "released" in parsed.ids and '<a href="#released">Released</a>' in page
    assert "No checkpoint has been released" not in page
    names = [model["name"] for model in json.loads(parsed.samples)]
    assert names == [
        "UP-LVSM (released: first_mini), 28 px",
        "UP-LVSM (released: second_mini), 28 px",
        "PT-LVSM, 28 px, from scratch",
        "UP-LVSM, 28 px, from scratch",
    ]
    captions = [
        part.partition("<")[0] for part in page.split("</video>")[1:] for part in [part.split("figcaption>")[1]]
    ]
    assert captions == [
        "UP-LVSM (released: first_mini), 28 px, trained on rooms-mini: seen-0",
        "UP-LVSM (released: second_mini), 28 px, trained on rooms-mini: seen-0",
        "UP-LVSM, 28 px, from scratch, two CPU cores, minutes: seen-0",
    ]
    assert page.partition('id="released"')[2].partition("</section>")[0].count("<video") == 3
    assert "<span>UP-LVSM (released: first_mini), 28 px, gap23, seen set: against the best trivial baseline" in page
    assert all(reference.startswith(("data:", "#")) for reference in parsed.references)


def test_the_page_says_how_each_was_trained_and_how_it_scored(page: str) -> None:
    words = "5,000 steps of 24 scenes at 112 px, then 1,500 steps of 12 scenes at 252 px, on rooms-mini at scale mini"
    assert page.count(words) == 2
    assert "minutes on two processor cores" in page and "Trained elsewhere" in page
    section = page.partition('id="released"')[2].partition("</section>")[0]
    assert "Nearest context" in section and "Mean colour" in section  # beside the trivial baselines
    assert section.count("12.3 dB</figcaption>") == 8  # two views of two models, released and from scratch
    assert section.count("Against the best trivial baseline: ") == 4


def test_a_header_without_phases_tells_of_its_own(page: str) -> None:
    config = {"train": {"steps": 60, "batch_size": 8}, "views": {"image_size": 72, "image_width": 128}}
    assert training_words(config) == "60 steps of 8 scenes at 72x128 px, on ? at scale ?"
    after = {"train": {"steps": 7}, "views": {"image_size": 126}, "dataset": "rooms", "scale": "demo"}
    words = "60 steps of 8 scenes at 72x128 px, then 7 steps of 1 scenes at 126 px, on rooms at scale demo"
    assert training_words(after, [config]) == words


def test_what_started_from_adopted_weights_is_not_called_from_scratch(tmp_path: Path) -> None:
    first, last = (tmp_path / name for name in ("first", "last"))
    adopted = {"adopted": {"file": "theirs.pt"}, "subset": "published"}
    for folder, size, about in ((first, 14, adopted), (last, 28, {"subset": "full"})):
        folder.mkdir()
        write_evaluation(folder, "ptlvsm", size)
        summary = json.loads((folder / "summary.json").read_text())
        summary["weights"]["config"] |= about
        (folder / "summary.json").write_text(json.dumps(summary))
    (tmp_path / "figures").mkdir()
    io = {"inputs": [str(first), str(last)], "showcase": [str(shown(tmp_path, "first_mini"))]}
    io |= {"figures": str(tmp_path / "figures"), "out": str(tmp_path / "index.html")}
    report(ReportStage(study=STUDY, scale="demo", io=io))
    text = (tmp_path / "index.html").read_text()
    assert "PT-LVSM, 28 px, from adopted weights" in text and "PT-LVSM, 14 px, adopted" in text
    assert "rom scratch" not in text and "PT-LVSM, 28 px: from adopted weights, 150 steps" in text


def test_a_missing_evaluation_is_one_line(tmp_path: Path) -> None:
    folder = shown(tmp_path, "first_mini")
    shutil.rmtree(folder)
    with pytest.raises(DataError, match="no such file"):
        write(tmp_path, [folder])
