"""What rules take in from elsewhere and send out: published checkpoints, backbones, our own weights."""

import functools
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from novelview.config.compose import resolved
from novelview.config.difference import difference
from novelview.config.digest import source_digest
from novelview.config.header import ForeignWeightsError, read_config
from novelview.config.plan import Plan
from novelview.config.planned import planned, planned_digest
from novelview.config.runs import Run
from novelview.config.schema import Resolution, size_name
from novelview.downloads.registry import needed, read_registry, targets
from novelview.errors import ConfigError


def adopted(plan: Plan, wildcards: Any) -> Run:
    """Return the run whose published checkpoint the wildcards `run` and `res` name."""
    runs = (run for run in plan.all if run.adopted and (run.name, run.res) == (wildcards.run, wildcards.res))
    return next(runs)


def checkpoint_of(run: Run) -> str:
    """Return the file a run is adopted from: what the registry's entry is fetched to, or the user's own."""
    registry = read_registry()
    return registry[run.adopted].path if run.adopted in registry else str(Path(run.adopted).expanduser())


def adoption_words(plan: Plan, run: Run) -> list[str]:
    """Return the overrides of stage `adopt`: those of the phase the checkpoint stands for, and where it comes from."""
    train = plan.overrides("train", run.name, run.phase)
    described = [word for word in train if not word.startswith(("dataset=", "subset="))]
    registry = read_registry()
    if run.adopted not in registry:
        data = own_header(run).get("dataset")
        return [*described, *([f"dataset={data}"] if data else []), f"file={run.adopted}"]
    told = [word for word in registry[run.adopted].adopt if word.startswith(("dataset=", "views.", "model."))]
    return [*described, *told, f"name={run.adopted}"]


def check(plan: Plan) -> None:
    """Raise ConfigError where a checkpoint is not of its run's image size or, if its header tells, model."""
    for run in (run for run in plan.all if run.adopted):
        theirs = own_header(run)
        if theirs:
            _require_model(plan, run, theirs["model"])
        # A checkpoint of ours that the user gives to another phase may have been trained at another size.
        free = theirs and theirs.get("phase") != run.phase
        views = theirs.get("views")
        found = _size(views) if views else size_name(planned("adopt", adoption_words(plan, run)).views)
        if found != run.res and not free:
            raise ConfigError(f"--config init={run.adopted}: is at {found} px, {run.name} at {run.res}; choose another")


def own_header(run: Run) -> dict[str, Any]:
    """Return the header of the checkpoint of ours that a run is adopted from; empty for one in its authors' layout."""
    if run.adopted in read_registry():
        return {}
    try:
        return read_config(checkpoint_of(run))
    except ForeignWeightsError:  # published, or damaged: stage adopt tells them apart
        return {}


def _require_model(plan: Plan, run: Run, theirs: dict[str, Any]) -> None:
    other = difference(theirs, resolved(plan.composed("train", run.name, run.phase))["model"])
    if other:
        raise ConfigError(
            f"--config init={run.adopted}: not of {run.name} at scale {plan.scale} ({other}); choose the scale it was "
            "trained at, such as scale=mini"
        )


def _size(views: dict[str, Any]) -> str:
    return str(Resolution(views["image_size"], views["image_width"] or views["image_size"]))


def adoption(plan: Plan, wildcards: Any) -> dict[str, str]:
    """Return the params of rule `adopt_model`."""
    return stage_params("adopt", tuple(adoption_words(plan, adopted(plan, wildcards))))


def pretrained(plan: Plan, wildcards: Any) -> list[str]:
    """Return the files of the registry that the training of a run cannot do without."""
    return _pretrained(plan, plan.at(wildcards))


@functools.cache
def _pretrained(plan: Plan, run: Run) -> list[str]:
    config = plan.composed("train", run.name, run.phase, run.subset)
    return needed(config, read_registry(), started=bool(run.start))


def metric_weights(plan: Plan) -> list[str]:
    """Return the backbone that LPIPS needs; only paper scale insists on it, elsewhere the column may read n/a."""
    path = plan.composed("evaluate").eval.lpips_weights
    return [path] if plan.scale == "paper" and path in targets(read_registry()) else []


def publication(config: Mapping[str, Any], name: str, licence: str = "") -> dict[str, str]:
    """Return the params of rules that call stage `publish`; without `--config publish=OWNER` nothing is sent anywhere.

    name: the repository's; licence: the weights' where `--config licence=...` names none.
    """
    owner, chosen = config.get("publish"), config.get("licence") or licence
    words = [*([f"repo={owner}/{name}"] if owner else []), *([f"licence={chosen}"] if chosen else [])]
    return stage_params("publish", (*words, "io.weights=-", "io.evaluation=-", "io.out=-"))


def hub_name(wildcards: Any) -> str:
    """Return the name of the repository that rule `publish_model` sends a run to."""
    return f"novelview-{wildcards.run}-{wildcards.data}-x{wildcards.res}"


def compacting(name: str) -> dict[str, str]:
    """Return the params of rule `compact_model`."""
    return stage_params("compact", (f"name={name}", "io.weights=-", "io.out=-"))


@functools.cache
def stage_params(stage: str, words: tuple[str, ...]) -> dict[str, str]:
    """Return overrides as shell words, the configuration's and the sources' digests."""
    own = [word for word in words if not word.startswith("io.")]
    overrides = " ".join(shlex.quote(word) for word in own)
    return {"overrides": overrides, "digest": planned_digest(planned(stage, words)), "source": source_digest(stage)}
