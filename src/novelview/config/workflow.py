"""What the Snakefile calls: the environment of the rules and the plan, with one-line errors."""

import os
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from novelview.config.intact import changes
from novelview.config.plan import Plan
from novelview.errors import NovelviewError

T = TypeVar("T")
RECORDS = Path(".snakemake/metadata")


def enter(root: Path) -> None:
    """Make rules use this interpreter and the sources and configuration tree of the checkout `root`."""
    own = [str(root / "src"), str(root / "kernels")]
    inherited = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([*own, *([inherited] if inherited else [])])
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ["NOVELVIEW_CONF"] = str(root / "conf")


def told(make: Callable[[], T]) -> T:
    """Return what `make()` returns; a user's mistake ends the process with one line and status 2."""
    try:
        return make()
    except NovelviewError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None


def plan(config: Mapping[str, Any]) -> Plan:
    """Return the checked plan; a user's mistake ends the process with one line and status 2.

    Overrides under `runtime` reach the stages through NOVELVIEW_RUNTIME, because a rule's params rerun it when changed.
    """
    made = told(lambda: Plan(config))
    os.environ["NOVELVIEW_RUNTIME"] = shlex.join(made.run_only)
    return made


def tell_changes(datasets: Iterable[str]) -> None:
    """Print a line for each data folder whose files are not as its manifest has them, on standard error."""
    for line in (line for name in datasets for line in changes(f"data/{name}")):
        print(f"warning: {line}", file=sys.stderr, flush=True)


def refuse_linked_records() -> None:
    """End the process with one line where Snakemake's records are links into DVC's cache: it rewrites them in place.

    Called only before jobs really run, in the working directory of the workflow, so a dry run needs no copies.
    """
    for folder, _, names in os.walk(RECORDS):
        for path in (Path(folder, name) for name in names):
            if path.is_symlink() or path.stat().st_nlink > 1:
                print(
                    f"error: {path} is a link, and a run would write through it into DVC's cache; "
                    f"run `dvc unprotect {RECORDS}` first",
                    file=sys.stderr,
                    flush=True,
                )
                raise SystemExit(2)
