"""Weights on their way out and back: rounded to bfloat16, scored as rounded, released with a card, found, loaded.
Released checkpoints in the report: beside what was trained here, each labelled, or one line that there is none."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from packed_stores import MakePacked
from safetensors.torch import load_file, save_file
from synthetic_results import write_evaluation, write_results
from test_report import Page
from tiny_models import config, model_of

from novelview.config.checkpoints import FORMAT, LIMIT, released_checkpoints
from novelview.config.compose import compose
from novelview.config.digest import resolved
from novelview.config.schema import PackConfig, Study, StudyData
from novelview.config.stages import ReportStage
from novelview.errors import ConfigError, DataError
from novelview.evaluation.scores import read_rows
from novelview.figures.released import training_words
from novelview.files import sha256, write_json
from novelview.models.exchange import compact as compact_of
from novelview.models.exchange import load_pretrained
from novelview.models.registry import load_weights, read_config, save_weights
from novelview.scenes.pack import pack_chunks
from novelview.scenes.views import EvalEntry, save_index
from novelview.stages.cli import run_stage
from novelview.stages.compact import compact
from novelview.stages.evaluate import evaluate
from novelview.stages.publish import publish
from novelview.stages.report import report

EVALUATION = ["eval.splits=[full]", "eval.bootstrap=20", "eval.video_scenes=1", "eval.video_frames=3"]
RUN = ["runtime.device=cpu", "runtime.progress=false", "dataset=noise", "eval.pose_scenes=0"]
PATCH = ["model.patch_size=14", "model.dino.patch_size=14"]


def trained(path: Path, phase: str = "finetune", size: int = 42) -> None:
    words = ["model=ptlvsm", f"phase={phase}", f"views.image_size={size}", "dataset=noise", *PATCH, "train.steps=1234"]
    header = resolved(compose("train", words))
    save_weights(path, model_of("ptlvsm"), header | {"model": dataclasses.asdict(config("ptlvsm"))})


def score(root: Path, weights: Path, out: Path) -> None:
    paths = {"packed": root / "both", "raw": root / "raw", "weights": weights, "out": out}
    words = [*RUN, *EVALUATION, *(f"io.{key}={value}" for key, value in paths.items())]
    assert run_stage("evaluate", evaluate, words) == 0


def rounding(root: Path, *more: str) -> list[str]:
    paths = {"weights": root / "trained.safetensors", "out": root / "rounded.safetensors"}
    return ["name=tiny", *(f"io.{key}={value}" for key, value in paths.items()), *more]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, make_packed: MakePacked) -> Path:
    """A folder with trained, rounded and released weights, and the evaluation of the rounded ones."""
    root = tmp_path_factory.mktemp("release")
    make_packed(root, {"scene0": 8, "scene1": 8}, (42, 70))
    chunks = [root / "raw/000000.torch"]
    pack_chunks({"train": chunks, "test": chunks}, root / "both", PackConfig(), progress=False)
    save_index(root / "raw/indices/full.json", [EvalEntry(f"scene{number}", (0, 6), (2, 3)) for number in (0, 1)])
    write_json(root / "raw/scenes.json", {f"scene{number}": {"set": "new"} for number in (0, 1)})
    trained(root / "first.safetensors", "pretrain", 28)
    trained(root / "trained.safetensors")
    assert run_stage("compact", compact, rounding(root, f"io.before=[{root}/first.safetensors]")) == 0
    score(root, root / "rounded.safetensors", root / "evaluation")
    paths = {"weights": root / "rounded.safetensors", "evaluation": root / "evaluation", "out": root / "released/tiny"}
    words = [f"io.{key}={value}" for key, value in paths.items()]
    assert run_stage("publish", publish, [*words, "licence=apache-2.0"]) == 0
    return root


def test_every_weight_is_the_nearest_bfloat16_and_loads_as_float32(root: Path) -> None:
    exact, _ = load_weights(root / "trained.safetensors")
    stored = load_file(root / "rounded.safetensors")
    loaded, header = load_weights(root / "rounded.safetensors")
    state = loaded.state_dict()
    assert {value.dtype for value in stored.values()} == {torch.bfloat16}
    for key, value in exact.state_dict().items():
        assert torch.equal(stored[key], value.bfloat16())
        assert state[key].dtype == torch.float32 and torch.equal(state[key], value.bfloat16().float())
    assert (root / "rounded.safetensors").stat().st_size < 0.55 * (root / "trained.safetensors").stat().st_size
    known = header.pop("released")
    assert header == read_config(root / "trained.safetensors")
    assert (known["name"], known["sha256"]) == ("tiny", sha256(root / "trained.safetensors"))
    assert [(one["phase"], one["size"], one["steps"]) for one in known["phases"]] == [
        ("pretrain", "28", 1234),
        ("finetune", "42", 1234),
    ]


def test_the_same_weights_give_the_same_bytes(root: Path, tmp_path: Path) -> None:
    words = rounding(root, f"io.before=[{root}/first.safetensors]", f"io.out={tmp_path}/again.safetensors")
    assert run_stage("compact", compact, words) == 0
    assert (tmp_path / "again.safetensors").read_bytes() == (root / "rounded.safetensors").read_bytes()


def test_scores_are_those_of_the_rounded_weights(root: Path, tmp_path: Path) -> None:
    model, header = load_weights(root / "trained.safetensors")
    for parameter in model.parameters():
        parameter.data = parameter.data.bfloat16().float()
    save_weights(tmp_path / "direct.safetensors", model, header)
    score(root, tmp_path / "direct.safetensors", tmp_path / "direct")
    score(root, root / "trained.safetensors", tmp_path / "exact")
    rows = read_rows(root / "evaluation/rows.csv")
    assert rows == read_rows(tmp_path / "direct/rows.csv")
    assert rows != read_rows(tmp_path / "exact/rows.csv")


def test_the_card_is_true(root: Path) -> None:
    folder = root / "released/tiny"
    card = " ".join((folder / "README.md").read_text().split())
    summary = json.loads((folder / "evaluation/summary.json").read_text())
    own = next(row for row in summary["groups"] if row["model"] == "ptlvsm")["psnr"]
    assert f"{own['mean']:.2f} [{own['low']:.2f}, {own['high']:.2f}]" in card
    assert summary["weights"]["sha256"] == sha256(folder / "model.safetensors")
    assert sha256(folder / "model.safetensors") in card and sha256(root / "trained.safetensors") in card
    assert "1,234 steps of" in card and "at 28 px, then" in card and "at 42 px, on noise at scale demo" in card
    assert f"{sum(value.numel() for value in load_file(folder / 'model.safetensors').values()):,} parameters" in card
    assert 'load_pretrained("released/tiny")' in card and "rounded to bfloat16" in card
    assert "Licence of these weights: apache-2.0." in card


def test_what_is_released_is_found_and_loads_in_a_line(root: Path) -> None:
    (found,) = released_checkpoints(root / "released")
    assert (found.name, found.model, found.config["phase"]) == ("tiny", "ptlvsm", "finetune")
    model, header = load_pretrained(root / "released/tiny")
    assert header == found.config and not model.training and next(model.parameters()).dtype == torch.float32
    assert released_checkpoints(root / "nowhere") == []
    (root / "empty/one").mkdir(parents=True)
    assert released_checkpoints(root / "empty") == []


def test_the_lines_of_the_docs_load_and_render(root: Path) -> None:
    text = (Path(__file__).parents[2] / "docs/publishing.md").read_text().partition("## Load\n")[2]
    load, use = (block.partition("```")[0] for block in text.split("```python\n")[1:])
    here = {"released/uplvsm_mini": root / "released/tiny", "data/rooms-showcase/packed": root / "both"}
    code = load.partition("render =")[0] + use.replace("[0, 18, 9]", "[0, 6, 3]")
    for name, path in here.items():
        assert name in code
        code = code.replace(name, str(path))
    found: dict = {}
    exec(code, found)
    assert found["render"].shape == (1, 1, 3, 42, 42) and found["render"].isfinite().all()


def rewritten(folder: Path, config: dict, state: dict[str, torch.Tensor] | None = None) -> None:
    """Write the weights anew with another header or other tensors, and a card that names them."""
    path = folder / "model.safetensors"
    state = load_file(path) if state is None else state
    save_file(state, path, {"format": FORMAT, "config": json.dumps(config)})
    (folder / "README.md").write_text(f"SHA-256 {sha256(path)}")


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def flip(folder: Path) -> None:
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(bytes(content))


def grow(folder: Path) -> None:
    config = read_config(folder / "model.safetensors")
    rewritten(folder, config, {"a": torch.zeros(LIMIT // 2 + 1, dtype=torch.bfloat16)})


def change(**keys: object):
    def edit(folder: Path) -> None:
        rewritten(folder, read_config(folder / "model.safetensors") | keys)

    return edit


def widen(folder: Path) -> None:
    state = {key: value.float() for key, value in load_file(folder / "model.safetensors").items()}
    rewritten(folder, read_config(folder / "model.safetensors"), state)


def strip(folder: Path) -> None:
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors")


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (cut, "damaged"),
        (flip, "of other weights"),
        (grow, "has 16.0 MB, and a released file at most 16"),
        (change(model={"name": "nerf"}), "unknown model 'nerf'"),
        (change(model={"name": "ptlvsm", "colour": 1}), "another version of novelview"),
        (change(views=None), "its header does not say 'views'"),
        (change(released={"phases": [{"steps": 3}]}), "its header does not say how it was trained"),
        (widen, "holds numbers of kind F32"),
        (strip, "not weights written by novelview"),
        (lambda folder: (folder / "model.safetensors").unlink(), "missing"),
        (lambda folder: (folder / "README.md").unlink(), "no model card README.md"),
        (lambda folder: folder.rename(folder.with_name("Tiny-1")), "small letters, digits and _"),
    ],
)
def test_a_released_file_that_cannot_be_used_is_one_line(root: Path, tmp_path: Path, spoil, line: str) -> None:
    shutil.copytree(root / "released/tiny", tmp_path / "released/tiny")
    spoil(tmp_path / "released/tiny")
    with pytest.raises(ConfigError, match=line) as caught:
        released_checkpoints(tmp_path / "released")
    said = str(caught.value)
    assert "\n" not in said and "git checkout" in said and "released/" in said


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["io.weights={root}/rounded.safetensors"], "already rounded, as tiny"),
        (["io.weights={root}/none.safetensors"], "no such file"),
        (["name=Tiny-1"], "small letters, digits and _"),
        (["io.out={root}"], "is a folder"),
        (["io.before=[{root}/both/manifest.json]"], "no weights of novelview"),
    ],
)
def test_what_cannot_be_rounded_is_one_line(root: Path, tmp_path, capsys, more: list[str], line: str):
    out = tmp_path / "out.safetensors"
    words = rounding(root, f"io.out={out}", *(word.format(root=root) for word in more))
    assert run_stage("compact", compact, words) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and line in error and not out.exists()


def test_more_than_sixteen_megabytes_is_refused(root: Path, tmp_path, capsys, monkeypatch):
    size = (root / "rounded.safetensors").stat().st_size
    monkeypatch.setattr("novelview.models.exchange.LIMIT", size - 1)
    out = tmp_path / "out.safetensors"
    words = rounding(root, f"io.before=[{root}/first.safetensors]", f"io.out={out}")
    assert run_stage("compact", compact, words) == 2
    assert "release a smaller model" in capsys.readouterr().err and not out.exists()


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
    assert page.partition('id="story"')[2].partition("</section>")[0].count("<video") == 3
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


def test_the_header_says_how_long_and_on_what_where_the_log_lies_beside(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    trained(weights)
    compact_of(weights, [], "timed", tmp_path / "out" / "model.safetensors")
    silent = read_config(tmp_path / "out" / "model.safetensors")["released"]
    assert "machine" not in silent and "seconds" not in silent["phases"][0]
    weights.with_name("train.csv").write_text("step,seconds\n1,2.5\n2,61.25\n")
    compact_of(weights, [], "timed", tmp_path / "out" / "model.safetensors")
    told = read_config(tmp_path / "out" / "model.safetensors")["released"]
    assert told["phases"][0]["seconds"] == 61.2 and told["machine"]
