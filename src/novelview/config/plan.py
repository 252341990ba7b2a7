"""A study as the workflow sees it: which stages run, with which overrides, and where their files lie."""

import functools
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from novelview.config.cameras import Judged, judged, ready, suffix, taken, weights_of
from novelview.config.digest import source_digest
from novelview.config.init import read_init
from novelview.config.planned import planned, planned_digest
from novelview.config.runs import Run, make_runs
from novelview.config.schema import size_name
from novelview.config.settings import assign, check_keys
from novelview.config.study import at_scale, load_study, variant_of
from novelview.errors import ConfigError

SCALING = "scaling"  # the figure and the table of a study with several training subsets


class Plan:
    """Overrides, digests and paths of every stage of one `snakemake --config ...` call."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Check the workflow's own configuration and every stage's; raises ConfigError, one line."""
        check_keys(config)
        self.scale = str(config.get("scale", "demo"))
        study = load_study(str(config.get("study", "less3depend")))
        if self.scale not in study.data:
            raise ConfigError(f"scale '{self.scale}' does not exist; choose one of {', '.join(study.data)}")
        self.study = at_scale(study, self.scale)
        self.data = self.study.data[self.scale]
        self.path = config.get("path") or self.data.path
        self.source = str(config.get("source") or self.data.source)
        self.dataset = str(config.get("name") or self.data.dataset)
        self._set, self.run_only = assign(config.get("set"))
        init = read_init(config.get("init"), self.study)
        self.all = make_runs(self.study, self.scale, self.dataset, init, self.resolution)
        self._by_place = {run.place: run for run in self.all}
        known = self.study.poses.get(self.scale, [])
        self.estimators = ready(known, lambda name: self.composed("poses", name), fetched=self.scale == "paper")
        self._check()

    def _check(self) -> None:
        planned("preprocess", [*self.overrides("preprocess"), *self.run_only])
        needs_path = self.composed("download").source.kind != "rooms"
        if needs_path and not self.path:
            raise ConfigError(f"source={self.source} reads a folder of yours: give it as --config path=FOLDER")
        for stage in ("download", "preprocess", "evaluate", "figures", "report"):
            self.stage(stage)
        for name in self.estimators:
            self.stage("poses", name)

    def overrides(
        self, stage: str, name: str = "", phase: str = "", subset: str = "full", figure: str = "-"
    ) -> list[str]:
        """Return the Hydra overrides of a stage, most general first.

        name: the run's, for stage `train`; the estimator's of the cameras, for `poses`, `preprocess` and `evaluate`.
        """
        judged_on = f"dataset={self.dataset}{suffix(name)}"
        own = {
            "download": [
                f"source={self.source}",
                f"dataset={self.dataset}",
                *([f"path={self.path}"] if self.path else []),
            ],
            "poses": [f"poses={name}", f"dataset={self.dataset}"],
            "preprocess": [judged_on],
            "train": [*self._of_run(name, phase), f"phase={phase}", f"dataset={self.dataset}", f"subset={subset}"],
            "evaluate": [judged_on, f"eval={self.data.eval}", "io.weights=-", "io.out=-"],
            "latency": [f"dataset={self.dataset}", "io.out=-"],
            "figures": [f"study={self.study.name}", f"figure={figure}", "io.out=-"],
            "report": [f"study={self.study.name}", "io.figures=-", "io.out=-"],
        }[stage]
        study = self.study.overrides.get(stage, [])
        variant = variant_of(self.study, name).train if stage == "train" else []
        settings = self._set.get(stage, [])
        if stage == "poses":
            settings = taken(settings, name, self.study.poses.get(self.scale, []))
        return [f"scale={self.scale}", *own, *study, *variant, *settings]

    def _of_run(self, name: str, phase: str) -> list[str]:
        own = variant_of(self.study, name)
        words = [f"variant={name}"] if name != own.model else []
        words += [f"size={self.scale}/{own.size}"] if own.size else []
        words += [f"recipe={self.scale}/{own.recipe}/{phase}"] if own.recipe else []
        return [f"model={own.model}", *words]

    @functools.cache  # noqa: B019 - one plan lives as long as the process
    def stage(
        self, stage: str, name: str = "", phase: str = "", subset: str = "full", figure: str = "-"
    ) -> dict[str, str]:
        """Return a rule's params: the overrides as shell words, the configuration's and the sources' digests."""
        config = self.composed(stage, name, phase, subset, figure)
        overrides = self.overrides(stage, name, phase, subset, figure)
        words = [word for word in overrides if not word.startswith("io.")]
        return {
            "overrides": " ".join(shlex.quote(word) for word in words),
            "digest": planned_digest(config),
            "source": source_digest(stage),
        }

    def composed(self, stage: str, name: str = "", phase: str = "", subset: str = "full", figure: str = "-") -> Any:
        """Return a stage's configuration; name: as for `overrides`."""
        # Hydra takes its time: what differs in the subset or the figure alone is composed once.
        config = self._composed(stage, name, phase)
        own = {"train": {"subset": subset}, "figures": {"figure": figure}}.get(stage, {})
        return replace(config, **own)

    @functools.cache  # noqa: B019
    def _composed(self, stage: str, name: str, phase: str) -> Any:
        return planned(stage, self.overrides(stage, name, phase))

    def resolution(self, name: str, phase: str) -> str:
        """Return the image size a run is trained at in a phase, as paths have it: `126`, or height x width."""
        return size_name(self.composed("train", name, phase).views)

    def runs(self, *, trained: bool = False, first: bool | None = None) -> list[Run]:
        """Return the study's runs; trained: without adopted ones; first: those from nothing, or those from weights."""
        kept = [run for run in self.all if not (trained and run.adopted)]
        return kept if first is None else [run for run in kept if bool(run.start) != first]

    @property
    def evaluations(self) -> list[Judged]:
        """Return every run's evaluations: on the given cameras, and on the estimated ones the study asks for."""
        return judged(self.study, self.runs(), self.estimators)

    @property
    def datasets(self) -> dict[str, str]:
        """Return the study's data sets and whose cameras they have: its own (no name), and the estimators'."""
        return {f"{self.dataset}{suffix(name)}": name for name in ("", *self.estimators)}

    @property
    def records(self) -> list[str]:
        """Return what the estimators say of the cameras they found."""
        return [f"data/{self.dataset}{suffix(name)}/raw/poses.json" for name in self.estimators]

    def estimator_weights(self, name: str) -> list[str]:
        """Return the weights file an estimator reads, if it reads one."""
        path = weights_of(self.composed("poses", name))
        return [path] if path else []

    def at(self, wildcards: Any) -> Run:
        """Return the run whose folder the wildcards `run`, `data` and `res` make up."""
        return self._by_place[f"{wildcards.run}/{wildcards.data}/x{wildcards.res}"]

    def only(self, runs: Sequence[Run]) -> str:
        """Return a constraint of the wildcard `run` under which a rule's output matches these runs' folders alone."""
        places = "|".join(re.escape(run.place) for run in runs)
        # Looking ahead, because a constraint of one wildcard cannot depend on another's value.
        return f"(?=(?:{places})/)[a-z0-9_]+" if places else "(?!)"

    def train(self, wildcards: Any) -> dict[str, str]:
        """Return the params of a training rule."""
        run = self.at(wildcards)
        return self.stage("train", run.name, run.phase, run.subset)

    def figure(self, name: str) -> dict[str, str]:
        """Return the params of the rule that draws a figure or writes a table."""
        return self.stage("figures", figure=name)

    @property
    def figures(self) -> list[str]:
        """Return the study's figures; several subsets at this scale add the scaling figure."""
        return [*self.study.figures, *self._scaling]

    @property
    def tables(self) -> list[str]:
        """Return the study's tables; several subsets at this scale add the scaling table."""
        return [*self.study.tables, *(f"{name}_table" for name in self._scaling)]

    @property
    def _scaling(self) -> list[str]:
        return [SCALING] if len({run.subset for run in self.runs(trained=True)}) > 1 else []

    @property
    def extras(self) -> list[str]:
        """Return further files the report waits for; a rule of its own makes each."""
        return [f"{self.results}/{name}" for name in self.study.extras]

    @property
    def tag(self) -> str:
        """Return the study's name in the names of log files."""
        return self.results.removeprefix("results/").replace("/", "-")

    @property
    def train_threads(self) -> int:
        """Return threads of a training, evaluation or pose job: few at scales whose jobs share two cores, or a GPU."""
        return {"demo": 1, "mini": 4}.get(self.scale, 8)

    def first(self, stage: str) -> int:
        """Return the priority of a stage's jobs: what others wait for, then long ones, so that no core stays idle.

        At scale mini one model comes to its end before the next, so that few weights are waiting to be read.
        """
        mini = {"preprocess": 40, "pointmaps": 40, "poses": 30, "finetune": 10, "evaluate": 20}
        others = {"preprocess": 40, "pointmaps": 40, "poses": 20, "pretrain": 10, "finetune": 10}
        return (mini if self.scale == "mini" else others).get(stage, 0)

    @property
    def data_threads(self) -> int:
        """Return threads or processes the data set is made and packed with."""
        return {"mini": 16}.get(self.scale, 2)

    @property
    def gpus(self) -> int:
        """Return GPUs a training or evaluation job asks a cluster for."""
        return {"demo": 0, "mini": 1}.get(self.scale, 8)

    @property
    def cpus(self) -> int:
        """Return cores a training or evaluation job asks a cluster for: the loader workers of every GPU and itself."""
        return max(self.train_threads, 6 * self.gpus)

    @property
    def memory_mb(self) -> int:
        """Return the main memory, in MB, a training or evaluation job asks a cluster for."""
        return {"demo": 4000, "mini": 48000}.get(self.scale, 192000)

    @property
    def needs_network(self) -> bool:
        """Return whether the data come over the network, so that they are fetched where Snakemake runs."""
        return planned("download", self.overrides("download")).source.kind in ("chunks", "dl3dv")

    def listed(self, paths: Sequence[str]) -> str:
        """Return paths as one shell word that Hydra reads as a list."""
        return shlex.quote(f"[{','.join(paths)}]")

    @property
    def results(self) -> str:
        """Return the folder of the study's tables, figures and report."""
        suffix = "" if self.dataset == self.data.dataset else f"-{self.dataset}"
        return f"results/{self.scale}/{self.study.name}{suffix}"


def one_of(names: Sequence[str]) -> str:
    """Return a wildcard constraint that matches any of the names, and nothing where there are none."""
    return "|".join(re.escape(name) for name in names) or "(?!)"
