"""What the rules that take weights in and send weights out are given: `adopt_model` and `publish_model`."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from novelview.config.compose import compose, digest
from novelview.config.digest import source_digest
from novelview.config.plan import Plan
from novelview.config.runs import Run
from novelview.downloads.registry import read_registry


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
    told = [word for word in registry[run.adopted].adopt if word.startswith("dataset=")]
    return [*described, *told, f"name={run.adopted}"]


def adoption(plan: Plan, wildcards: Any) -> dict[str, str]:
    """Return the params of rule `adopt_model`."""
    return _params("adopt", adoption_words(plan, adopted(plan, wildcards)))


def publication(plan: Plan, config: Mapping[str, Any], wildcards: Any) -> dict[str, str]:
    """Return the params of rule `publish_model`; without `--config publish=OWNER` nothing is sent anywhere."""
    owner, licence = config.get("publish"), config.get("licence")
    name = f"novelview-{wildcards.run}-{wildcards.data}-x{wildcards.res}"
    words = [*([f"repo={owner}/{name}"] if owner else []), *([f"licence={licence}"] if licence else [])]
    return _params("publish", [*words, "io.weights=-", "io.evaluation=-", "io.out=-"])


def _params(stage: str, words: list[str]) -> dict[str, str]:
    """Return overrides as shell words, the configuration's and the sources' digests."""
    own = [word for word in words if not word.startswith("io.")]
    overrides = " ".join(shlex.quote(word) for word in own)
    return {"overrides": overrides, "digest": digest(compose(stage, words)), "source": source_digest(stage)}
