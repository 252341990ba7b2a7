"""What a study releases: of each run it names, the weights of the last phase, and where each step leaves its files."""

from dataclasses import dataclass

from novelview.config.plan import Plan
from novelview.config.released import FOLDER, require_name
from novelview.config.runs import Run
from novelview.errors import ConfigError

LICENCE = "apache-2.0"  # of what is trained here from nothing, unless --config licence=... says otherwise


@dataclass(frozen=True)
class Release:
    """One checkpoint on its way out: trained, rounded (stage compact), scored as rounded (evaluate), written (publish).

    run: the last phase on all of the data; before: the weights of its earlier phases; place: where rounded weights and
    their evaluation lie until the folder of released/ is written.
    """

    name: str
    run: Run
    before: tuple[str, ...]
    place: str

    @property
    def weights(self) -> str:
        """The rounded weights."""
        return f"{self.place}/model.safetensors"

    @property
    def evaluation(self) -> str:
        """The evaluation of the rounded weights."""
        return f"{self.place}/evaluation"

    @property
    def folder(self) -> str:
        """The released folder."""
        return f"{FOLDER}/{self.name}"


def releases(plan: Plan) -> list[Release]:
    """Return what `snakemake release` writes; a run that starts from a published checkpoint is not released.

    Raises ConfigError for a name that is no folder's, and for a run that the study does not have.
    """
    return [_release(plan, run, name) for run, name in plan.study.releases.items() if _trained(plan, run)]


def _trained(plan: Plan, name: str) -> list[Run]:
    """Return the phases of a run on all of the training data, none where any of them is adopted."""
    own = [run for run in plan.runs() if run.name == name and run.subset == "full"]
    if not own:
        runs = ", ".join(dict.fromkeys(run.name for run in plan.runs() if run.subset == "full"))
        raise ConfigError(f"conf/study/{plan.study.name}.yaml: releases: no run '{name}'; choose among {runs}")
    return [] if any(run.adopted for run in own) else own


def _release(plan: Plan, run: str, name: str) -> Release:
    require_name(name, f"conf/study/{plan.study.name}.yaml: releases.{run}")
    *before, last = _trained(plan, run)
    return Release(name, last, tuple(phase.weights for phase in before), f"results/{plan.scale}/release/{name}")


def require_releases(plan: Plan) -> None:
    """Raise ConfigError where the target `release` would write nothing."""
    if not releases(plan):
        raise ConfigError(
            f"study {plan.study.name} releases nothing: name runs under `releases` in its file, "
            "or take a study that has them (study=mini scale=mini)"
        )
