"""Digests that say when a stage has to run again: of its configuration, and of the code it imports."""

import ast
import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

# What no number depends on: what composes configurations, whose values are in the other digest, reports and looks on.
WATCHERS = (
    "novelview.config",
    "novelview.errors",
    "novelview.timebox",
    "novelview.stages.cli",
    "novelview.training.watch",
)
RUN_ONLY = ("runtime", "io")
DATA_SUFFIXES = {".yaml", ".j2", ".css", ".js", ".json"}


def resolved(config: Any) -> dict[str, Any]:
    """Return a stage's configuration as plain data without the run-only nodes (`runtime`, `io`)."""
    return {key: value for key, value in asdict(config).items() if key not in RUN_ONLY}


def digest(config: Any) -> str:
    """Return 12 hex digits that change exactly when a result-bearing value of the configuration changes."""
    return digest_of(resolved(config))


def digest_of(values: dict[str, Any]) -> str:
    """Return the digest of a configuration that `resolved` made plain, such as the one in a weights file's header."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


@functools.cache
def source_digest(stage: str, *models: str) -> str:
    """Return 12 hex digits over the code that a stage's results depend on; see `code_of`."""
    return hashlib.sha256(json.dumps(code_of(stage, *models)).encode()).hexdigest()[:12]


@functools.cache
def code_of(stage: str, *models: str) -> dict[str, str]:
    """Return 12 hex digits of each module of ours that a stage's results depend on, by its name.

    models: classes that the stage builds, `ModelConfig.code`; none is imported before one is built. Comments, blank
    lines and docstrings do not count: the digests are of syntax trees. The data files of a package (templates,
    tables) belong to it, as bytes."""
    found = {}
    for module in closure(f"novelview.stages.{stage}", *(model.rpartition(".")[0] for model in models if model)):
        path = module_file(module)
        assert path is not None
        total = hashlib.sha256(_read(module)[0].encode())
        for data in _data_files(path):
            total.update(data.name.encode() + b"\0" + data.read_bytes())
        found[module] = total.hexdigest()[:12]
    return found


@functools.cache
def closure(*names: str) -> tuple[str, ...]:
    """Return the sorted project modules reached from `names`, parent packages included, `WATCHERS` left out."""
    reached: set[str] = set()
    waiting = [*names]
    while waiting:
        module = waiting.pop()
        if module not in reached and not any(f"{module}.".startswith(f"{name}.") for name in WATCHERS):
            reached.add(module)
            waiting += [*imports_of(module), *([module.rpartition(".")[0]] if "." in module else [])]
    return tuple(sorted(reached))


@functools.cache
def imports_of(name: str) -> frozenset[str]:
    """Return the project modules that `name` imports anywhere in its file, function bodies included."""
    return frozenset(module for module in _read(name)[1] if module_file(module))


@functools.cache
def package_roots() -> dict[str, Path]:
    """Return the folder of each of the project's packages."""
    source = Path(__file__).resolve().parents[1]
    return {"novelview": source, "novelview_kernels": source.parents[1] / "kernels" / "novelview_kernels"}


@functools.cache
def module_file(name: str) -> Path | None:
    """Return the file of a project module (`novelview.config.digest`), or None when there is no such module."""
    package, *rest = name.split(".")
    root = package_roots().get(package)
    if root is None:
        return None
    base = root.joinpath(*rest)
    return next((path for path in (base / "__init__.py", base.with_suffix(".py")) if path.is_file()), None)


@functools.cache
def _read(name: str) -> tuple[str, frozenset[str]]:
    """Return the digest of a module's code, and the names it imports, modules or not."""
    path = module_file(name)
    assert path is not None, name
    text, imports = code_text(path.read_text())
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    names = {found for node in imports for found in _imported(package, node)}
    return hashlib.sha256(text.encode()).hexdigest(), frozenset(names)


def code_text(source: str) -> tuple[str, list[ast.Import | ast.ImportFrom]]:
    """Return a module's syntax tree as text, the same from every Python, and its import statements.

    Docstrings are left out, and empty fields: from version to version Python adds and drops some. So is what the place
    of a name says already, whether it is read or written."""
    parts: list[str] = []
    imports: list[ast.Import | ast.ImportFrom] = []
    _write(ast.parse(source), parts.append, imports)
    return "".join(parts), imports


def _write(node: Any, put: Callable[[str], None], imports: list[ast.Import | ast.ImportFrom]) -> None:
    if isinstance(node, ast.AST):
        if isinstance(node, ast.Import | ast.ImportFrom):
            imports.append(node)
        put(type(node).__name__)
        put("(")
        for name in node._fields:
            value = getattr(node, name, None)
            if value is not None and value != [] and name != "ctx":
                put(f"{name}=")
                _write(_without_docstring(node, value) if name == "body" else value, put, imports)
                put(",")
        put(")")
    elif isinstance(node, list):
        put("[")
        for item in node:
            _write(item, put, imports)
            put(",")
        put("]")
    else:
        put(repr(node))


def _without_docstring(node: ast.AST, body: Any) -> Any:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        first = body[0]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            return body[1:] or [ast.Pass()]
    return body


def _imported(package: str, node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
    base = ".".join([*parts, node.module] if node.module else parts)
    return [base, *(f"{base}.{alias.name}" for alias in node.names)]


def _data_files(module: Path) -> list[Path]:
    """Return the data files of a package: in its folder, and in folders below that are no packages."""
    if module.name != "__init__.py":
        return []
    folders = [path for path in module.parent.iterdir() if path.is_dir() and not (path / "__init__.py").exists()]
    found = [*module.parent.iterdir(), *(path for folder in folders for path in folder.rglob("*"))]
    return sorted(path for path in found if path.suffix in DATA_SUFFIXES)
