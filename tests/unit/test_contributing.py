"""What contributors meet first: its versions are those of constraints.txt, and what it names exists."""

import re
import shlex
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]


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
