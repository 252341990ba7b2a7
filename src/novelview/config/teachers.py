"""Which pointmaps the runs of a study learn from, and how the rule that makes them calls its stage."""

import shlex
from typing import Any

from novelview.config.digest import source_digest
from novelview.config.plan import Plan
from novelview.config.planned import planned, planned_digest
from novelview.config.runs import Run
from novelview.config.stages import SIZED_BY
from novelview.downloads.registry import read_registry, targets


def folder_of(plan: Plan, run: Run) -> str:
    """Return the folder of the pointmaps that a run is trained with; empty without PM-Loss."""
    wanted = plan.composed("train", run.name, run.phase, run.subset).train.losses.pointmap
    return f"data/{plan.dataset}/pointmaps/{wanted.teacher}-x{run.res}" if wanted.weight else ""


def manifests(plan: Plan, wildcards: Any) -> list[str]:
    """Return the manifest of the pointmaps that training a run waits for, if any."""
    folder = folder_of(plan, plan.at(wildcards))
    return [f"{folder}/manifest.json"] if folder else []


def option(plan: Plan, wildcards: Any) -> str:
    """Return the word that names a run's pointmaps to stage `train`, empty without any."""
    folder = folder_of(plan, plan.at(wildcards))
    return f"io.pointmaps={folder}" if folder else ""


def lesson(plan: Plan, wildcards: Any) -> dict[str, str]:
    """Return the params of the rule that makes the pointmaps of wildcards `dataset`, `teacher` and `res`."""
    words = _words(plan, wildcards)
    text = " ".join(shlex.quote(word) for word in words)
    return {
        "overrides": text,
        "digest": planned_digest(planned("pointmaps", words)),
        "source": source_digest("pointmaps"),
    }


def teacher_weights(wildcards: Any) -> list[str]:
    """Return the registry's file that a teacher cannot do without."""
    path = planned("pointmaps", []).weights
    return [path] if wildcards.teacher == "vggt" and path in targets(read_registry()) else []


def _words(plan: Plan, wildcards: Any) -> list[str]:
    ending = f"{wildcards.teacher}-x{wildcards.res}"
    run = next(run for run in plan.runs(trained=True) if folder_of(plan, run).endswith(f"/{ending}"))
    views = plan.composed("train", run.name, run.phase, run.subset).views
    own = [f"views.{key}={getattr(views, key)}" for key in SIZED_BY]
    return [f"scale={plan.scale}", f"dataset={plan.dataset}", f"teacher={wildcards.teacher}", *own]
