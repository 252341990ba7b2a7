"""The source digest covers the import closure and nothing but code."""

import shutil
from modulefinder import ModuleFinder
from pathlib import Path

import pytest

from novelview.config import digest as subject
from novelview.config.compose import MODELS

STAGES = ["download", "preprocess", "train", "evaluate", "figures", "report"]


@pytest.mark.parametrize("stage", STAGES)
def test_closure_is_what_modulefinder_finds(stage: str) -> None:
    roots = [str(folder.parent) for folder in subject.package_roots().values()]
    finder = ModuleFinder(path=roots, excludes=[*subject.WATCHERS])
    entry = subject.module_file(f"novelview.stages.{stage}")
    assert entry is not None
    finder.run_script(str(entry))
    found = {name for name in finder.modules if name.split(".")[0] in subject.package_roots()}
    reached = set(subject.closure(f"novelview.stages.{stage}"))
    assert found | {f"novelview.stages.{stage}"} <= reached and found > {"novelview", "novelview.files"}
    assert not reached & {"novelview.errors", "novelview.config.compose", "novelview.stages.cli"}


def test_no_watcher_is_a_name_that_nothing_has() -> None:
    assert all(subject.module_file(name) for name in subject.WATCHERS)


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    roots = {name: tmp_path / name for name in subject.package_roots()}
    for name, folder in subject.package_roots().items():
        shutil.copytree(folder, roots[name], ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(subject, "package_roots", lambda: roots)
    _forget()
    yield tmp_path / "novelview"
    monkeypatch.undo()
    _forget()


def _forget() -> None:
    for function in (subject.module_file, subject._read, subject.imports_of, subject.closure, subject.code_of):
        function.cache_clear()
    subject.source_digest.cache_clear()


def _changed_by(path: Path, text: str) -> set[str]:
    before = {stage: subject.source_digest(stage) for stage in STAGES}
    path.write_text(text)
    _forget()
    return {stage for stage in STAGES if subject.source_digest(stage) != before[stage]}


def test_an_edit_changes_exactly_the_stages_that_import_it(copy: Path) -> None:
    edited = copy / "training" / "optim.py"
    assert _changed_by(edited, edited.read_text() + "\nEXTRA = 1\n") == {"train"}


@pytest.mark.parametrize(
    ("file", "trained"),
    [
        ("training/watch.py", set()),
        ("models/lact.py", {"lact"}),
        ("models/depthsplat/depth.py", {"depthsplat"}),
        ("models/uplvsm.py", {"uplvsm"}),
        ("models/dinov2.py", {"uplvsm", "ptlvsm", "depthsplat"}),
        ("losses/photometric.py", {*MODELS}),
        ("scenes/samplers.py", {*MODELS}),
        ("evaluation/scores.py", set()),
        ("config/models.py", set()),
    ],
)
def test_an_edit_makes_again_the_trainings_of_the_models_that_have_it(copy: Path, file: str, trained: set[str]) -> None:
    before = {name: subject.source_digest("train", node.code) for name, node in MODELS.items()}
    (copy / file).write_text((copy / file).read_text() + "\nEXTRA = 1\n")
    _forget()
    assert {
        name for name, node in MODELS.items() if subject.source_digest("train", node.code) != before[name]
    } == trained


def test_a_helper_below_everything_changes_every_stage(copy: Path) -> None:
    edited = copy / "files.py"
    assert _changed_by(edited, edited.read_text() + "\nEXTRA = 1\n") == set(STAGES)


def test_comments_and_docstrings_change_nothing(copy: Path) -> None:
    edited = copy / "files.py"
    text = edited.read_text().replace('"""Files that appear whole', '"""Whole files, files that appear whole')
    assert _changed_by(edited, "# a remark\n\n" + text) == set()


def test_every_python_reads_the_same_out_of_a_text() -> None:
    """Newer versions have fields that older ones lack (type_params) and print empty ones or not."""
    said, _ = subject.code_text('def f(a, *, b=1):\n    "Says."\n    return f"{a!r:>3}" "b"\n')
    call = "args=arguments(args=[arg(arg='a',),],kwonlyargs=[arg(arg='b',),],kw_defaults=[Constant(value=1,),],)"
    spec = "conversion=114,format_spec=JoinedStr(values=[Constant(value='>3',),],)"
    text = f"[FormattedValue(value=Name(id='a',),{spec},),Constant(value='b',),]"
    body = f"[Return(value=JoinedStr(values={text},),),]"
    assert said == f"Module(body=[FunctionDef(name='f',{call},body={body},),],)"


@pytest.mark.parametrize(("one", "other"), [("return", "return None"), ("f(())", "f([])"), ("x = ''", "x = None")])
def test_what_is_empty_in_a_text_still_counts(one: str, other: str) -> None:
    assert subject.code_text(one)[0] != subject.code_text(other)[0]
