"""What comes in from elsewhere and what goes out: published checkpoints, and weights of our own that are released.

A study names the runs it releases; the showcase evaluates released checkpoints beside the study's own runs, on a small
data set filmed for that.
"""

import functools
from dataclasses import asdict, dataclass
from typing import Any

from novelview.config.checkpoints import (
    FOLDER,
    ForeignWeightsError,
    Released,
    difference,
    read_config,
    released_checkpoints,
    require_name,
)
from novelview.config.digest import resolved
from novelview.config.plan import Plan
from novelview.config.schema import StudyData, ViewsConfig, size_name
from novelview.config.study import Run
from novelview.downloads.registry import read_registry
from novelview.errors import ConfigError
from novelview.files import expanded

LICENCE = "apache-2.0"  # of what is trained here from nothing, unless --config licence=... says otherwise


def checkpoint_of(run: Run) -> str:
    """Return the file a run is adopted from: what the registry's entry is fetched to, or the user's own."""
    registry = read_registry()
    return registry[run.adopted].path if run.adopted in registry else str(expanded(run.adopted))


def adoption_words(plan: Plan, run: Run) -> list[str]:
    """Return the overrides of stage `adopt`: those of the phase the checkpoint stands for, and where it comes from."""
    train = plan.overrides("train", run.name, run.phase)
    described = [word for word in train if not word.startswith(("dataset=", "subset="))]
    registry = read_registry()
    if run.adopted not in registry:
        data = own_header(run).get("dataset")
        return [*described, *([f"dataset={data}"] if data else []), f"file={run.adopted}"]
    own = [word for word in registry[run.adopted].adopt if word.startswith(("dataset=", "views.", "model."))]
    return [*described, *own, f"name={run.adopted}"]


def check_adopted(plan: Plan) -> None:
    """Raise ConfigError where a checkpoint is not of its run's image size or, if its header tells, model."""
    for run in (run for run in plan.all if run.adopted):
        theirs = own_header(run)
        other = theirs and difference(theirs["model"], resolved(plan.composed("train", run.name, run.phase))["model"])
        if other:
            raise ConfigError(
                f"--config init={run.adopted}: not of {run.name} at scale {plan.scale} ({other}); choose the scale it "
                "was trained at, such as scale=mini"
            )
        # A checkpoint of ours that the user gives to another phase may have been trained at another size.
        free = theirs and theirs.get("phase") != run.phase
        views = theirs.get("views") or asdict(plan.compose("adopt", *adoption_words(plan, run)).views)
        found = size_name(
            ViewsConfig(image_size=int(views["image_size"]), image_width=int(views.get("image_width", 0)))
        )
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


@dataclass(frozen=True)
class Release:
    """One checkpoint on its way out: trained, rounded (stage compact), scored as rounded (evaluate), written (publish).

    run: the last phase on all of the data; before: the weights of its earlier phases; place: where rounded weights and
    their evaluation lie until `folder` is written.
    """

    name: str
    run: Run
    before: tuple[str, ...]
    place: str
    folder: str


def releases(plan: Plan) -> list[Release]:
    """Return what `snakemake release` writes; a run that starts from a published checkpoint is not released.

    Raises ConfigError for a name that is no folder's, and for a run that the study does not have.
    """
    found = []
    for run, name in plan.study.releases.items():
        own = [one for one in plan.runs() if one.name == run and one.subset == "full"]
        if not own:
            known = ", ".join(dict.fromkeys(one.name for one in plan.runs() if one.subset == "full"))
            raise ConfigError(f"conf/study/{plan.study.name}.yaml: releases: no run '{run}'; choose among {known}")
        if not any(one.adopted for one in own):
            require_name(name, f"conf/study/{plan.study.name}.yaml: releases.{run}")
            before = tuple(phase.weights for phase in own[:-1])
            found.append(Release(name, own[-1], before, f"results/{plan.scale}/release/{name}", f"{FOLDER}/{name}"))
    return found


def require_releases(plan: Plan) -> list[Release]:
    """Return what the target `release` writes; raises ConfigError where that is nothing."""
    found = releases(plan)
    if not found:
        raise ConfigError(
            f"study {plan.study.name} releases nothing: name runs under `releases` in its file, "
            "or take a study that has them (study=mini scale=mini)"
        )
    return found


def publication(plan: Plan, name: str, licence: str = "") -> dict[str, str]:
    """Return the params of rules that call stage `publish`; without `--config publish=OWNER` nothing is sent anywhere.

    name: the repository's; licence: the weights' where `--config licence=...` names none.
    """
    owner, chosen = plan.config.get("publish"), plan.config.get("licence") or licence
    words = [*([f"repo={owner}/{name}"] if owner else []), *([f"licence={chosen}"] if chosen else [])]
    return plan.call("publish", *words)


@dataclass(frozen=True)
class Showcase:
    """Released checkpoints and the data they are shown on; neither is touched by the study's own settings."""

    scale: str
    data: StudyData
    checkpoints: tuple[Released, ...]

    def folder(self, name: str) -> str:
        """Return the folder of a checkpoint's evaluation."""
        return f"results/{self.scale}/showcase/{name}/evaluation"

    def metrics(self, name: str) -> str:
        """Return the file of a checkpoint's means alone, which git keeps."""
        return f"results/{self.scale}/showcase/{name}/metrics.json"

    @property
    def folders(self) -> list[str]:
        """Return the folders of all evaluations."""
        return [self.folder(one.name) for one in self.checkpoints]

    @property
    def datasets(self) -> list[str]:
        """Return the data set's name, and none where nothing is shown."""
        return [self.data.dataset] if self.checkpoints else []

    def overrides(self, stage: str) -> list[str]:
        """Return the Hydra overrides of stage `download`, `preprocess` or `evaluate`."""
        own = {"download": [f"source={self.data.source}"], "evaluate": [f"eval={self.data.eval}"]}.get(stage, [])
        return [f"scale={self.scale}", f"dataset={self.data.dataset}", *own]


@functools.cache
def showcase(plan: Plan) -> Showcase:
    """Return what a plan's report shows beside its own runs: nothing where its study has no showcase at its scale.

    Raises ConfigError, one line, for a released checkpoint that cannot be used (`released_checkpoints`).
    """
    if plan.scale not in plan.study.showcase:
        return Showcase("", StudyData("-", "-", "-"), ())
    found = Showcase(plan.scale, plan.study.showcase[plan.scale], tuple(released_checkpoints()))
    if found.data.dataset in plan.datasets:
        raise ConfigError(f"--config name={plan.dataset}: the showcase's data set is called so; choose another name")
    return found
