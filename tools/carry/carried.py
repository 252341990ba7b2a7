"""Which files travel: what is finished, weights that somebody still reads, the training under way; never the data."""

from collections.abc import Iterator
from pathlib import Path

from carry.studies import Mini
from novelview.config.study import Run
from novelview.files import sha256

RECORDS = ".snakemake/metadata"
LEFT = ("gaussians_*.ply",)  # large, and read by no later stage


def carried(mini: Mini) -> list[Path]:
    """Return the files of the state, below the checkout."""
    records = (mini.root / RECORDS).rglob("*")
    found = [*_runs(mini), *_evaluations(mini), *_pages(mini), *_releases(mini), *records]
    return [path for path in dict.fromkeys(found) if path.is_file() and ".partial" not in path.name]


def data_digests(mini: Mini) -> dict[str, str]:
    """Return the SHA-256 of every data manifest that is there, by path."""
    return {name: sha256(mini.root / name) for name in mini.data() if mini.exist(name)}


def _runs(mini: Mini) -> Iterator[Path]:
    for run in mini.runs:
        if mini.trained(run):
            yield from (mini.root / run.folder / name for name in ("train.csv", "config.yaml"))
        if not mini.trained(run):
            yield from newest(mini, run)
        elif not mini.is_used_up(run):
            yield mini.root / run.weights


def newest(mini: Mini, run: Run) -> list[Path]:
    """Return the newest resumable state of a run, if it has any."""
    states = [path for path in mini.checkpoints(run).glob("*.pt") if not path.name.startswith(".")]
    return sorted(states, key=lambda path: path.stat().st_mtime)[-1:]


def _evaluations(mini: Mini) -> Iterator[Path]:
    for one in dict.fromkeys(one for plan in mini.plans for one in plan.evaluations):
        yield mini.root / one.metrics
        yield from _evaluation(mini.root / one.folder)


def _evaluation(folder: Path) -> Iterator[Path]:
    """Yield the files of a finished evaluation, or the batches of an unfinished one."""
    if (folder / "summary.json").is_file():
        yield from (path for path in folder.glob("*") if not any(path.match(pattern) for pattern in LEFT))
    else:
        yield from folder.with_name(f".{folder.name}.units").glob("*")


def _pages(mini: Mini) -> Iterator[Path]:
    for plan in mini.plans:
        yield from (mini.root / plan.results).rglob("*")


def _releases(mini: Mini) -> Iterator[Path]:
    for one in mini.releases:
        yield mini.root / one.place / "metrics.json"
        yield from _evaluation(mini.root / one.place / "evaluation")
        if mini.released(one):
            yield from (mini.root / one.folder).glob("*")
        else:
            yield mini.root / one.place / "model.safetensors"
