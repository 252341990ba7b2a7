"""Source digests: a hash over the import closure of a stage, so a code edit reruns the stages that contain it."""

import ast
import functools
import hashlib
import sys
from pathlib import Path
from typing import Any

from novelview.config.memo import recall

PACKAGES = ("novelview", "novelview_kernels")


def package_roots() -> dict[str, Path]:
    """Return the folder of each of the project's packages."""
    source = Path(__file__).resolve().parents[1]
    return {"novelview": source, "novelview_kernels": source.parents[1] / "kernels" / "novelview_kernels"}


def module_file(name: str) -> Path | None:
    """Return the file of a project module (`novelview.config.digest`), or None when there is no such module."""
    package, *rest = name.split(".")
    root = package_roots().get(package)
    if root is None:
        return None
    base = root.joinpath(*rest)
    for candidate in (base / "__init__.py", base.with_suffix(".py")):
        if candidate.is_file():
            return candidate
    return None


@functools.cache
def imports_of(name: str) -> frozenset[str]:
    """Return the project modules that `name` imports anywhere in its file, function bodies included."""
    path = module_file(name)
    assert path is not None, name
    return frozenset(module for module in _read(name, path)["imports"] if module_file(module))


def _read(name: str, path: Path) -> dict[str, Any]:
    """Return the digest of a module's code and the names it imports, modules or not."""
    return _recalled(name if path.name == "__init__.py" else name.rpartition(".")[0], path.read_text())


# Parsing all modules takes seconds, so what a text says is kept between calls.
@functools.cache
def _recalled(package: str, text: str) -> dict[str, Any]:
    reader = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    return recall(f"module {sys.version} {reader} {package} {text}", lambda: _parsed(package, text))


def _parsed(package: str, text: str) -> dict[str, Any]:
    tree = _tree(text)
    code = hashlib.sha256(_dump(tree).encode()).hexdigest()
    return {"code": code, "imports": sorted(_imports(package, tree))}


def _imports(package: str, tree: ast.Module) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parts, node.module] if node.module else parts)
            found.update([base, *(f"{base}.{alias.name}" for alias in node.names)])
    return found


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


@functools.cache
def closure(name: str) -> tuple[str, ...]:
    """Return the sorted project modules reached from `name`, itself and parent packages included."""
    reached: set[str] = set()
    waiting = [name]
    while waiting:
        module = waiting.pop()
        if module in reached:
            continue
        reached.add(module)
        waiting.extend([*imports_of(module), *_parents(module)])
    return tuple(sorted(reached))


@functools.cache
def source_digest(stage: str) -> str:
    """Return 12 hex digits over the code of `novelview.stages.<stage>` and everything of ours that it imports.

    Comments, blank lines and docstrings are left out: the hash is taken over the syntax trees, so only code counts.
    Data files shipped in the package beside a module of the closure (templates, tables) are hashed as bytes.
    """
    total = hashlib.sha256()
    for module in closure(f"novelview.stages.{stage}"):
        path = module_file(module)
        assert path is not None
        total.update(f"{module}\0{_read(module, path)['code']}\0".encode())
        for data in _data_files(path):
            total.update(data.name.encode() + b"\0" + data.read_bytes())
    return total.hexdigest()[:12]


def _tree(text: str) -> ast.Module:
    """Return a module's syntax tree without docstrings."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            _drop_docstring(node)
    return tree


def _dump(node: Any) -> str:
    """Return a syntax tree as text. Empty fields are left out: from version to version Python adds and drops some."""
    if isinstance(node, ast.AST):
        fields = [(name, getattr(node, name, None)) for name in node._fields]
        inner = [f"{name}={_dump(value)}" for name, value in fields if value is not None and value != []]
        return f"{type(node).__name__}({', '.join(inner)})"
    return f"[{', '.join(map(_dump, node))}]" if isinstance(node, list) else repr(node)


def _drop_docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    first = node.body[0] if node.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        node.body = node.body[1:] or [ast.Pass()]


def _data_files(module: Path) -> list[Path]:
    if module.name != "__init__.py":
        return []
    suffixes = {".yaml", ".j2", ".css", ".js", ".json"}
    own = [path for path in module.parent.iterdir() if path.suffix in suffixes]
    folders = [
        folder for folder in module.parent.iterdir() if folder.is_dir() and not (folder / "__init__.py").exists()
    ]
    nested = [path for folder in folders for path in folder.rglob("*") if path.suffix in suffixes]
    return sorted(own + nested)
