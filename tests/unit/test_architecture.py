"""The rooms of the house: imports point one way, files stay short, the commands the owner promised exist. What
contributors meet first: its versions are those of constraints.txt, and what it names exists."""

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from novelview.config.digest import imports_of, module_file

ROOT = Path(__file__).parents[2]
ORDER = ["cameras", "scenes", "splatting", "models", "losses", "training evaluation planning", "figures", "stages"]
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms.split()}
BELOW = {"config", "devices", "errors", "files", "compat", "downloads", "timebox", "unfinished"}
# Attention, and the fast weights with their published rounding.
CALLS_KERNELS = {"novelview.models.layers", "novelview.models.ttt"}
MODULES = sorted(
    ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "src/novelview").rglob("*.py")
)


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module: str) -> None:
    rank = RANK.get(_room(module))
    for target in imports_of(module):
        room = _room(target)
        if target.startswith("novelview_kernels"):
            assert module in CALLS_KERNELS, f"{module} imports {target}"
        elif room in RANK and rank is not None:
            assert RANK[room] < rank or room == _room(module), f"{module} imports {target}"
        elif room in RANK:
            pytest.fail(f"{module} lies below {target}")
        else:
            assert room in BELOW or not room, f"{target} has no place in the order"


def test_configuration_never_imports_torch() -> None:
    for module in (name for name in MODULES if _room(name) in {"config", "errors", "files"}):
        path = module_file(module)
        assert path is not None
        names = {
            alias.name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        assert "torch" not in names, module


@pytest.mark.parametrize("folder", ["src", "kernels", "bench", "tools"])
def test_files_stay_under_400_lines(folder: str) -> None:
    long = {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*.py") if path.read_text().count("\n") > 400}
    assert not long


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def test_the_hooks_have_the_pinned_versions() -> None:
    pins = set((ROOT / "constraints.txt").read_text().split())
    hooks = [hook for repo in read(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    assert [hook["id"] for hook in hooks] == ["ruff", "ruff-format", "snakefmt", "codespell"]
    assert all(repo["repo"] == "local" for repo in read(".pre-commit-config.yaml")["repos"])
    for hook in hooks:
        (version,) = hook["additional_dependencies"]
        assert version in pins and shlex.split(hook["entry"])[0] == version.partition("==")[0]
    lint = (ROOT / "Makefile").read_text().partition("\nlint:")[2].partition("\n\n")[0]
    assert all(shlex.split(hook["entry"])[0] in lint for hook in hooks)


def test_the_workflow_runs_the_projects_own_command_on_each_version() -> None:
    jobs = read(".github/workflows/ci.yml")["jobs"]
    assert jobs["linux"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert jobs["linux"]["runs-on"].startswith("ubuntu") and jobs["macos"]["runs-on"].startswith("macos")
    assert jobs["linux"]["steps"][-1] == {"run": ".ci/run"}
    assert (ROOT / ".ci/run").stat().st_mode & 0o111
    assert any("constraints.txt" in step.get("run", "") for step in jobs["macos"]["steps"])


def test_the_form_asks_for_the_error_and_the_provenance_file() -> None:
    form = read(".github/ISSUE_TEMPLATE/bug.yml")
    fields = {field["id"]: field for field in form["body"]}
    for name in ("command", "error", "provenance"):
        assert fields[name]["validations"]["required"] is True
    assert "error:" in fields["error"]["attributes"]["description"]
    assert "summary.json" in fields["provenance"]["attributes"]["description"]


def test_the_page_names_files_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    tops = r"(?:src|kernels|conf|tests|workflow|docs|tools)/"
    named = set(re.findall(rf"[`(]({tops}[\w./-]+)[`)]", text))
    assert len(named) > 15
    assert not {name for name in named if not (ROOT / name).exists()}
    assert len(text.splitlines()) <= 60
