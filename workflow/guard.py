"""What the Snakefile calls: the plan with one-line errors, the environment of the rules, and checks before a run."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from novelview.config.plan import Plan
from novelview.errors import NovelviewError
from novelview.files import SOURCE_STATE, sha256
from novelview.stages.download import read_state
from novelview.stages.launch import visible_gpus

T = TypeVar("T")
RECORDS = Path(".snakemake/metadata")
HASHED = 2**28  # bytes a data folder that are read anew by every call, smallest files first; sizes are compared for all


def use_checkout(root: Path) -> None:
    """Make rules use this interpreter and the sources and configuration tree of the checkout `root`."""
    paths = [str(root / "src"), str(root / "kernels"), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ["NOVELVIEW_CONF"] = str(root / "conf")


def or_exit(make: Callable[[], T]) -> T:
    """Return what `make()` returns; a user's mistake ends the process with one line and status 2."""
    try:
        return make()
    except NovelviewError as error:
        _exit(str(error))
        raise  # not reached


def count_gpus(workflow: Any, asked: bool) -> None:
    """Make the visible GPUs the limit of jobs that run here at a time, unless `--resources gpu=N` names another.

    asked: whether jobs of this scale ask for some; where none is visible a line says that they run on the CPU.
    """
    known, gpus = workflow.global_resources, len(visible_gpus(os.environ))
    if known["_nodes"].value is not None or "gpu" in known:  # on a cluster, which counts them itself
        return
    if gpus:
        workflow.register_resource("gpu", gpus)
    elif asked and workflow.is_main_process:
        print("no GPU is visible here: jobs that ask for some run on the CPU", file=sys.stderr, flush=True)


def refuse_linked_records() -> None:
    """End the process with one line where Snakemake's records are links into DVC's cache: it rewrites them in place.

    Called only before jobs really run, in the working directory of the workflow, so a dry run needs no copies.
    """
    for folder, _, names in os.walk(RECORDS):
        for path in (Path(folder, name) for name in names):
            if path.is_symlink() or path.stat().st_nlink > 1:
                _exit(
                    f"{path} is a link, and a run would write through it into DVC's cache; "
                    f"run `dvc unprotect {RECORDS}` first"
                )


def _exit(line: str) -> None:
    print(f"error: {line}", file=sys.stderr, flush=True)
    raise SystemExit(2) from None


def warn_of_changed_data(datasets: Iterable[str]) -> None:
    """Print a line for each data folder whose files are not as its manifest has them, on standard error."""
    for line in (line for name in datasets for line in changed_data(f"data/{name}")):
        print(f"warning: {line}", file=sys.stderr, flush=True)


def tell_of_other_code(plan: Plan) -> None:
    """Print, on standard error, which results are kept although other code made them (`runtime.code=keep`)."""
    kept = plan.made_by_other_code()
    if kept:
        line = f"code=keep: other code made {', '.join(kept)}; these stay, and --config code=strict makes them again"
        print(line, file=sys.stderr, flush=True)


def source_state(plan: Plan) -> str:
    """Return the state of the files that the data set is imported from; that of its import where they are not here.

    A line on standard error says when they are not as they were: the rule, of whose params this is one, runs again."""
    raw = Path(f"data/{plan.dataset}/raw")
    record = raw / SOURCE_STATE
    before = record.read_text() if record.is_file() else ""
    now = read_state(plan.composed("download").source.kind, plan.path)
    if before and now and now != before:
        print(f"{plan.path}: changed since {raw} was made from it; it is read again", file=sys.stderr, flush=True)
    return now or before


def changed_data(dataset: Path | str) -> list[str]:
    """Return a line for each folder of a data set (`data/rooms`) with a file that is not as its manifest has it."""
    folders = (Path(dataset) / name for name in ("raw", "packed"))
    found = ((folder, next(_differing(folder), None)) for folder in folders)
    return [
        f"{name}, and Snakemake sees {folder / 'manifest.json'} alone; bring it back (`dvc checkout {folder}`), "
        "or delete that manifest to have all of it made again"
        for folder, name in found
        if name
    ]


def _differing(folder: Path) -> Iterator[str]:
    """Yield what is wrong, file by file."""
    left = HASHED
    for path, entry in sorted(_listed(folder).items(), key=lambda item: item[1]["bytes"]):
        size, found = entry["bytes"], path.stat().st_size if path.is_file() else None
        if found is None:
            yield f"{path} is missing"
        elif found != size:
            yield f"{path} has {found} bytes instead of {size}"
        elif (left := left - size) >= 0 and sha256(path) != entry["sha256"]:
            yield f"{path} was changed"


def _listed(folder: Path) -> dict[Path, dict[str, Any]]:
    """Return the manifest's entries by path; none where there is no manifest, or one that its reader will refuse.

    Chunks that stayed in a folder of the user's (`root`) are left out where that folder is not on this machine.
    """
    try:
        content = json.loads((folder / "manifest.json").read_text("utf-8"))
        root = Path(content.get("root") or folder)
        files = {
            (root if name.endswith(".torch") else folder) / name: entry for name, entry in content["files"].items()
        }
        here = {path: entry for path, entry in files.items() if root.is_dir() or root not in path.parents}
        return {path: {"bytes": int(entry["bytes"]), "sha256": entry["sha256"]} for path, entry in here.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
