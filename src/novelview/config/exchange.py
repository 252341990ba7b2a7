"""What rules take in from elsewhere and send out: published checkpoints, backbones, our own weights."""

import functools
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from novelview.config.digest import source_digest
from novelview.config.plan import Plan
from novelview.config.planned import planned, planned_digest
from novelview.config.resolution import size_name
from novelview.config.runs import Run
from novelview.downloads.registry import needed, read_registry, targets
from novelview.errors import ConfigError, NovelviewError


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
        return [*described, f"file={run.adopted}"]
    told = [word for word in registry[run.adopted].adopt if word.startswith(("dataset=", "views.", "model."))]
    return [*described, *told, f"name={run.adopted}"]


def check(plan: Plan) -> None:
    """End the process with one line and status 2 where a checkpoint is not of its run's image size."""
    for run in (run for run in plan.all if run.adopted):
        try:
            found = size_name(planned("adopt", adoption_words(plan, run)).views)
            if found != run.res:
                raise ConfigError(
                    f"--config init={run.adopted}: is at {found} px, {run.name} at {run.res}; choose another"
                )
        except NovelviewError as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            raise SystemExit(2) from None


def adoption(plan: Plan, wildcards: Any) -> dict[str, str]:
    """Return the params of rule `adopt_model`."""
    return _params("adopt", tuple(adoption_words(plan, adopted(plan, wildcards))))


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


def publication(plan: Plan, config: Mapping[str, Any], wildcards: Any) -> dict[str, str]:
    """Return the params of rule `publish_model`; without `--config publish=OWNER` nothing is sent anywhere."""
    owner, licence = config.get("publish"), config.get("licence")
    name = f"novelview-{wildcards.run}-{wildcards.data}-x{wildcards.res}"
    words = [*([f"repo={owner}/{name}"] if owner else []), *([f"licence={licence}"] if licence else [])]
    return _params("publish", (*words, "io.weights=-", "io.evaluation=-", "io.out=-"))


@functools.cache
def _params(stage: str, words: tuple[str, ...]) -> dict[str, str]:
    """Return overrides as shell words, the configuration's and the sources' digests."""
    own = [word for word in words if not word.startswith("io.")]
    overrides = " ".join(shlex.quote(word) for word in own)
    return {"overrides": overrides, "digest": planned_digest(planned(stage, words)), "source": source_digest(stage)}
