"""What the mini scale consists of: both studies' runs, which of their files are there, and which are still read."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from exchange import Release, releases
from novelview.config.digest import digest
from novelview.config.plan import Plan
from novelview.config.study import Run

STUDIES = ("mini", "scaling")


@dataclass(frozen=True)
class Job:
    """One stage of one run or page, and whether it need not run any more."""

    stage: str
    name: str
    done: bool


class Mini:
    """Both studies with the same overrides, in the checkout `root`; raises ConfigError for wrong overrides.

    Weights that nothing reads any more may be gone: a run is trained when they are there, or all is made from them."""

    def __init__(self, root: Path, words: str = "", studies: tuple[str, ...] = STUDIES, scale: str = "mini") -> None:
        self.root, self.words, self.scale, self.studies = root, words, scale, studies
        self.plans = [Plan({"study": study, "scale": scale, "set": words}) for study in studies]
        self.owner = {run.weights: plan for plan in reversed(self.plans) for run in plan.runs(trained=True)}
        self.runs: list[Run] = list(dict.fromkeys(run for plan in self.plans for run in plan.runs(trained=True)))
        self.releases: list[Release] = [one for plan in self.plans for one in releases(plan)]

    def exist(self, *names: str) -> bool:
        """Whether all of these files are there."""
        return all((self.root / name).is_file() for name in names)

    def trained(self, run: Run) -> bool:
        """Whether a run's training is over."""
        return self.exist(run.weights) or self.is_used_up(run)

    def is_used_up(self, run: Run) -> bool:
        """Whether everything that is made from a run's weights is there."""
        judged = {f"{one.folder}/summary.json" for plan in self.plans for one in plan.evaluations if one.run == run}
        later = [other for other in self.runs if other.start == run.weights]
        released = [one for one in self.releases if run.weights in (one.run.weights, *one.before)]
        return self.exist(*judged) and all(map(self.trained, later)) and all(map(self.released, released))

    def released(self, one: Release) -> bool:
        """Whether a checkpoint is released, and from these runs: a clone may hold an earlier one."""
        return self.exist(f"{one.folder}/published.json", f"{one.place}/evaluation/summary.json")

    def jobs(self) -> list[Job]:
        """Return all stages but those of the data, in their order."""
        return list(dict.fromkeys([*self._runs(), *self._pages()]))

    def _runs(self) -> Iterator[Job]:
        for run in self.runs:
            yield Job(run.phase, run.place, self.trained(run) and self.exist(f"{run.folder}/train.csv"))
        for one in dict.fromkeys(one for plan in self.plans for one in plan.evaluations):
            yield Job("evaluate", one.folder, self.exist(f"{one.folder}/summary.json", one.metrics))
        for one in self.releases:
            yield Job("release", one.name, self.released(one))

    def _pages(self) -> Iterator[Job]:
        for plan in self.plans:
            for name in plan.figures:
                yield Job("figures", f"{plan.results}/{name}", self.exist(f"{plan.results}/figures/{name}.png"))
            for name in plan.tables:
                yield Job("tables", f"{plan.results}/{name}", self.exist(f"{plan.results}/tables/{name}.md"))
            yield Job("report", plan.results, self.exist(f"{plan.results}/report/index.html"))

    def data(self) -> list[str]:
        """Return the manifests of all data, packed stores and pointmaps."""
        found = [f"data/{plan.dataset}/{kind}/manifest.json" for plan in self.plans for kind in ("raw", "packed")]
        for run in self.runs:
            found += self._data_of(run)
        return list(dict.fromkeys(found))

    def wanted_data(self) -> list[str]:
        """Return the manifests that stages still to run read: of no data where only pages are left."""
        if all(job.done for job in self._runs()):
            return []
        learnt = [path for run in self.runs if self.trained(run) for path in self._data_of(run)]
        waiting = [path for run in self.runs if not self.trained(run) for path in self._data_of(run)]
        return [path for path in self.data() if path in waiting or path not in learnt]

    def _data_of(self, run: Run) -> list[str]:
        return [f"{folder}/manifest.json" for folder in self.owner[run.weights].pointmaps(run)]

    def checkpoints(self, run: Run) -> Path:
        """Return the folder of a run's resumable states."""
        return self.root / "checkpoints" / run.phase / digest(self.owner[run.weights].config_of(run))
