"""The report: one file, no other file or network needed, every sample and every loss in it."""

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from synthetic_results import SETS, STUDY, write_results

from novelview.config.schema import Resolution, Study
from novelview.config.stages import ReportStage
from novelview.errors import DataError
from novelview.figures import story
from novelview.figures.report import duration
from novelview.figures.results import Results, Score
from novelview.figures.results_table import results_table
from novelview.stages.figures import draw
from novelview.stages.report import report


class Page(HTMLParser):
    """Collects what a page refers to, its element names and the text of its JSON script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.ids: list[str] = []
        self.counts: dict[str, int] = {}
        self.samples = ""
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        found = dict(attrs)
        self.references += [
            str(value) for name, value in attrs if name in {"src", "href", "srcset", "poster", "action"}
        ]
        self.ids += [found["id"] or ""] if "id" in found else []
        self.inside = tag == "script" and found.get("id") == "samples"

    def handle_data(self, data: str) -> None:
        self.samples += data if self.inside else ""

    def handle_endtag(self, tag: str) -> None:
        self.inside = False


def write(root: Path, out: Path, study: Study = STUDY, scale: str = "demo") -> str:
    folders, logs = write_results(root / "results")
    draw(Results(folders, logs, figure="training_curves"), root / "figures" / "training_curves")
    io = {"figures": str(root / "figures"), "out": str(out)}
    io |= {"inputs": [str(path) for path in folders], "curves": [str(path) for path in logs]}
    report(ReportStage(study=study, scale=scale, io=io))
    return out.read_text()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("report")
    return write(root, root / "report" / "index.html")


def test_page_needs_no_other_file(page: str) -> None:
    parsed = Page(page)
    assert all(reference.startswith(("data:", "#")) for reference in parsed.references)
    assert all(reference[1:] in parsed.ids for reference in parsed.references if reference.startswith("#"))
    assert "@import" not in page and "url(" not in page.split("</style>")[0]
    assert parsed.counts["video"] == 1 and "link" not in parsed.counts


def test_page_holds_every_sample_of_every_model(page: str) -> None:
    models = json.loads(Page(page).samples)
    assert [model["name"] for model in models] == ["PT-LVSM, 28 px", "UP-LVSM, 28 px"]
    for model in models:
        assert [sample["name"] for sample in model["samples"]] == [
            f"{name}, gap23, {name}-{number}, frame 11" for number, name in enumerate(SETS)
        ]
        for sample in model["samples"]:
            pictures = [sample[name] for name in ("target", "render", "nearest", "error", "context0", "context1")]
            assert all(base64.b64decode(one.partition(",")[2])[8:12] == b"WEBP" for one in pictures)
            assert sample["psnr"] == "12.34" and sample["frames"] == [0, 23]


def test_page_shows_losses_as_plainly_as_wins(page: str) -> None:
    assert "PT-LVSM at 28 px, large, seen set: −0.70 dB [−0.95, −0.45] against the mean of the context views" in page
    assert "PT-LVSM at 28 px, gap23, seen set: +1.40 dB [1.15, 1.65] over the mean of the context views" in page
    assert '<li class="loss">' in page and '<li class="win">' in page and '<li class="tie">' in page
    assert '<td class="number loss">−0.70<small>[−0.95, −0.45] M</small></td>' in page


def test_page_says_what_it_is(page: str, tmp_path: Path) -> None:
    assert "are blurry after minutes on two processor cores" in page
    assert "Made‑up &lt;study&gt;" in page and "<study>" not in page
    assert "n/a (weights not downloaded)" in page and "What differs" in page
    assert "0123456789ab" in page and "777" in page and "torch 2.13.0" in page and "2 min 30 s" in page
    assert "are blurry after minutes on two processor cores" not in write(
        tmp_path, tmp_path / "index.html", scale="paper"
    )


def test_page_has_no_machine_paths(page: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert str(tmp_path_factory.getbasetemp()) not in page and str(Path.home()) + "/" not in page


def test_page_repeats_byte_for_byte(page: str, tmp_path: Path) -> None:
    assert write(tmp_path, tmp_path / "index.html") == page


def test_page_without_pictures_videos_or_published_rows(tmp_path: Path) -> None:
    folders, _ = write_results(tmp_path / "results")
    for folder in folders:
        for name in ("gallery.safetensors", "path_seen-0.mp4"):
            (folder / name).unlink(missing_ok=True)
    (tmp_path / "figures").mkdir()
    io = {"inputs": [str(path) for path in folders], "curves": [], "figures": str(tmp_path / "figures")}
    report(ReportStage(study=Study(name="photos"), io=io | {"out": str(tmp_path / "index.html")}))
    text = (tmp_path / "index.html").read_text()
    parsed = Page(text)
    assert not {"compare", "videos", "gaps"} & set(parsed.ids) and "<script" not in text
    assert "No published rows exist for this study." in text
    assert all(reference[1:] in parsed.ids for reference in parsed.references if reference.startswith("#"))


def test_missing_inputs_are_one_line(tmp_path: Path) -> None:
    folders, _ = write_results(tmp_path / "results")
    io = {"inputs": [str(folders[0])], "figures": str(tmp_path / "gone"), "out": str(tmp_path / "index.html")}
    with pytest.raises(DataError, match=r"gone: no folder of figures here; run the figures stage first$"):
        report(ReportStage(study=STUDY, io=io))
    with pytest.raises(DataError, match=r"report: no evaluation folders given"):
        report(ReportStage(study=STUDY, io=io | {"inputs": [], "figures": str(tmp_path)}))
    assert not (tmp_path / "index.html").exists()


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "unknown"), (45.4, "45 s"), (125, "2 min 05 s"), (12_000, "3 h 20 min")]
)
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


HOSTILE = "</script><!--<script>alert(1)</script>\"'><img src=x onerror=alert(1)>$\\frac{$|\u2028]]>&amp;{{ 7 }}"


def test_names_that_are_code_stay_text_wherever_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A set's and a scene's name come from people's files; they stand in the page, its script, plots and tables."""
    monkeypatch.setattr("synthetic_results.SETS", ("seen", HOSTILE))
    study = replace(STUDY, title=f"Title {HOSTILE}", name="hostile")
    text = write(tmp_path, tmp_path / "report" / "index.html", study)
    parsed = Page(text)
    plain = Page(write(tmp_path / "plain", tmp_path / "plain" / "report" / "index.html"))
    assert {tag: parsed.counts[tag] for tag in ("script", "img", "style")} == {
        tag: plain.counts[tag] for tag in ("script", "img", "style")
    }
    assert not [reference for reference in parsed.references if not reference.startswith(("data:", "#"))]
    names = [sample["name"] for model in json.loads(parsed.samples) for sample in model["samples"]]
    assert any(HOSTILE in name for name in names) and "<!--" not in parsed.samples and "7 }}" in text
    folders, logs = write_results(tmp_path / "again")
    results = Results(folders, logs, figure="gaps")
    draw(results, tmp_path / "figures" / "gaps")
    table = results_table(Results(folders, logs)).write(tmp_path / "table", "Scores")
    markdown, latex, rows = (path.read_text() for path in table)
    assert "<img" not in markdown and "<script" not in markdown and "\u2028" in rows
    for block in markdown.split("\n\n"):  # a name with a bar adds no column
        lines = [line for line in block.split("\n") if line.startswith("|")]
        assert len({len(re.split(r"(?<!\\)[|]", line)) for line in lines}) <= 1
    assert r"\frac" not in latex and r"\textbackslash{}frac\{\$" in latex


def test_the_first_thing_is_pictures_a_sentence_and_a_small_table(page: str) -> None:
    main = page.partition('<main id="main">')[2]
    assert main.lstrip().startswith('<section id="story">')
    first = main.partition("</section>")[0]
    strips = first.split('<div class="cells"')[1:]
    assert len(strips) == 2  # one a scene
    for strip in strips:
        captions = [part.partition("</figcaption>")[0] for part in strip.split("<figcaption>")[1:]]
        assert captions[:2] == ["first context", "last context"] and captions[2].startswith("truth (gap23, ")
        assert captions[3:] == ["PT-LVSM, 12.3 dB", "UP-LVSM, 12.3 dB"]  # from most to least 3D knowledge
    assert "new set" in strips[0] and "seen set" in strips[1]  # photographs never trained on come first
    words = (
        "PT-LVSM +0.40 dB, UP-LVSM +0.10 dB against the best trivial baseline. That is little compute: knowledge wins."
    )
    assert words in first and "the more a system is told of the 3D world, the better it does" in first
    assert "the targets&#x27; poses and one context&#x27;s" in first
    assert first.count("<tr") == 3 and ">150<" in first  # seconds trained
    assert "<details open" not in page


def test_an_order_that_is_not_that_of_knowledge_is_said() -> None:
    def evaluation(model: str, mean: float) -> Any:
        margin = SimpleNamespace(score=Score(mean, mean - 0.1, mean + 0.1))
        config = {"model": {"name": model}}
        return SimpleNamespace(
            **{
                "model": model,
                "config": config,
                "dataset": "rooms",
                "resolution": Resolution(64, 64),
                "subset": "full",
            },
            **{"groups": [SimpleNamespace(set="new", split="gap18")], "margin": lambda *place: margin},
        )

    ordered = story.sentence([evaluation("depthsplat", 3.0), evaluation("uplvsm", 1.0)], [], "demo")
    assert ordered.startswith("The more a system is told") and "knowledge wins" in ordered
    other = story.sentence([evaluation("depthsplat", 1.0), evaluation("uplvsm", 3.0)], [], "demo")
    assert other.startswith("The order is not that of 3D knowledge") and "knowledge wins" not in other
    assert story.sentence([evaluation("uplvsm", 1.0)], [], "demo") == ""
