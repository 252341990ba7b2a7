"""The rooms of the house: imports point one way, files stay short, the commands the owner promised exist."""

import ast
from pathlib import Path

import pytest

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
