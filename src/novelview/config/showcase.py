"""The showcase: released checkpoints evaluated beside a study's own runs, on a small data set filmed for that."""

import functools
from dataclasses import dataclass

from novelview.config.exchange import stage_params
from novelview.config.plan import Plan
from novelview.config.released import Released, read_released
from novelview.config.schema import StudyData
from novelview.errors import ConfigError


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

    def checksum(self, name: str) -> str:
        """Return the SHA-256 of a checkpoint: a file replaced by an older one is not newer than its evaluation."""
        return next(one.sha256 for one in self.checkpoints if one.name == name)

    @property
    def folders(self) -> list[str]:
        """Return the folders of all evaluations."""
        return [self.folder(one.name) for one in self.checkpoints]

    @property
    def names(self) -> list[str]:
        """Return the checkpoints' names."""
        return [one.name for one in self.checkpoints]

    @property
    def datasets(self) -> list[str]:
        """Return the data set's name, and none where nothing is shown."""
        return [self.data.dataset] if self.checkpoints else []

    def overrides(self, stage: str) -> list[str]:
        """Return the Hydra overrides of stage `download`, `preprocess` or `evaluate`."""
        own = {
            "download": [f"source={self.data.source}"],
            "preprocess": [],
            "evaluate": [f"eval={self.data.eval}", "io.weights=-", "io.out=-"],
        }[stage]
        return [f"scale={self.scale}", f"dataset={self.data.dataset}", *own]

    def stage(self, stage: str) -> dict[str, str]:
        """Return a rule's params, as `Plan.stage` does."""
        return stage_params(stage, tuple(self.overrides(stage)))


NOTHING = Showcase("", StudyData("-", "-", "-"), ())


@functools.cache
def showcase(plan: Plan) -> Showcase:
    """Return what a plan's report shows beside its own runs: nothing where its study has no showcase at its scale.

    Raises ConfigError, one line, for a released checkpoint that cannot be used (`novelview.config.released`).
    """
    if plan.scale not in plan.study.showcase:
        return NOTHING
    found = Showcase(plan.scale, plan.study.showcase[plan.scale], tuple(read_released()))
    if found.data.dataset in plan.datasets:
        raise ConfigError(f"--config name={plan.dataset}: the showcase's data set is called so; choose another name")
    return found
