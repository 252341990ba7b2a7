"""A study as the workflow sees it: which stages run, with which configurations, and where their files lie.

Wildcards are those of the rules: run, data, phase and res make up a run's folder. Runs are judged on the cameras the
data came with and, where the study asks for it, on those an estimator finds in the pictures: `evaluation-colmap/`
beside `evaluation/`."""

import functools
import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from novelview.config.compose import ESTIMATORS, MODELS, compose, conf_dir, recorded, write_config
from novelview.config.digest import digest_of, resolved, source_digest
from novelview.config.keys import FOLDER_NAME, NAME, refuse
from novelview.config.schema import size_name
from novelview.config.stages import SIZED_BY
from novelview.config.study import Run, at_scale, load_study, make_runs, read_init, split_words, variant_of
from novelview.downloads.registry import needed, read_registry, targets
from novelview.errors import ConfigError

SCALING = "scaling"  # the figure and the table of a study with several training subsets
CONFIGS = Path("logs/config")  # the stages' configurations, a file each
STUDIES = {"overnight": "overnight"}  # what a scale runs where no study is named; else study less3depend
KEYS = ("study", "scale", "source", "path", "name", "init", "set", "code", "publish", "licence", "resources")
OWNERS = {  # keys of `set`, and the stages they belong to
    "source": ("download",),
    "pack": ("preprocess",),
    "model": ("train",),
    "views": ("train",),
    "train": ("train",),
    "eval": ("evaluate",),
    "poses": ("poses",),
    "align": ("poses",),
    "runtime": (),  # of every stage: it says how to run, so it reruns nothing
}
ALONE = ("align",)  # keys that lie under none

Params = dict[str, str]


@dataclass(frozen=True)
class RunEvaluation:
    """The evaluation of one run: on the study's data or (estimator not empty) on the same under estimated cameras."""

    run: Run
    estimator: str = ""

    @property
    def folder(self) -> str:
        """The evaluation's folder."""
        return f"{self.run.folder}/evaluation{suffix(self.estimator)}"

    @property
    def metrics(self) -> str:
        """The means alone, which git keeps."""
        return f"{self.run.folder}/metrics{suffix(self.estimator)}.json"


class Plan:
    """Configurations and paths of every stage of one `snakemake --config ...` call."""

    def __init__(self, config: Mapping[str, Any], write: bool = False) -> None:
        """Check the workflow's own configuration and every stage's; raises ConfigError, one line.

        config: what is given beside, or instead of, conf/workflow.yaml. write: write the stages' configurations to
        `logs/config` of the working directory when rules ask for them."""
        unknown = sorted(set(config) - set(KEYS))
        if unknown:
            raise ConfigError(f"--config {unknown[0]}=...: unknown; the workflow takes {', '.join(KEYS)}")
        given = yaml.safe_load((conf_dir() / "workflow.yaml").read_text()) | dict(config)
        self.config = {key: value for key, value in given.items() if value not in (None, "")}
        self.writes = write
        self.scale = str(self.config.get("scale", "demo"))
        study = load_study(str(self.config.get("study") or STUDIES.get(self.scale, "less3depend")))
        if self.scale not in study.data:
            raise ConfigError(f"scale '{self.scale}' does not exist; choose one of {', '.join(study.data)}")
        self.study = at_scale(study, self.scale)
        self.data = self.study.data[self.scale]
        self.resources = self.config["resources"][self.scale]
        self.path = self.config.get("path") or self.data.path
        self.source = str(self.config.get("source") or self.data.source)
        self.dataset = str(self.config.get("name") or self.data.dataset)
        named = self.config.get("name")
        refuse(named is not None and not NAME.fullmatch(self.dataset), f"--config name={named}: {FOLDER_NAME}")
        code = [f"runtime.code={self.config['code']}"] if "code" in self.config else []
        self.settings = [*setting_words(self.config.get("set")), *code]
        self.kept: dict[str, None] = {}  # folders whose results other code made, as far as stages were asked for
        init = read_init(self.config.get("init"), self.study)
        self.all = make_runs(self.study, self.scale, self.dataset, init, self.resolution)
        self._by_place = {run.place: run for run in self.all}
        self.asked = self.study.poses.get(self.scale, [])  # estimators; scale paper fetches weights that are not here
        here = {name: all(Path(path).is_file() for path in self.estimator_weights(name)) for name in self.asked}
        self.estimators = [name for name in self.asked if self.scale == "paper" or here[name]]
        self._check()
        # Data sets, and whose cameras they have: the study's own (no name), and the estimators'.
        self.datasets = {f"{self.dataset}{suffix(name)}": name for name in ("", *self.estimators)}
        # All runs on the given cameras, then those that take poses on every estimator's.
        posed = [run for run in self.all if run.name not in self.study.pose_free]
        self.evaluations = [RunEvaluation(run) for run in self.all]
        self.evaluations += [RunEvaluation(run, name) for name in self.estimators for run in posed]
        scaling = [SCALING] if len({run.subset for run in self.runs(trained=True)}) > 1 else []
        self.figures = [*self.study.figures, *scaling]
        self.tables = [*self.study.tables, *(f"{name}_table" for name in scaling)]
        ending = "" if self.dataset == self.data.dataset else f"-{self.dataset}"
        self.results = f"results/{self.scale}/{self.study.name}{ending}"
        self.tag = f"{self.scale}-{self.study.name}{ending}"  # in the names of log files
        self.extras = [f"{self.results}/{name}" for name in self.study.extras]  # files that the report waits for, too
        self.records = [f"data/{self.dataset}{suffix(name)}/raw/poses.json" for name in self.estimators]
        self.gpus = self.resources["train"]["gpu"]  # of a training or evaluation job
        # Data that come over the network are fetched where Snakemake runs.
        self.needs_network = self.composed("download").source.kind in ("chunks", "dl3dv")
        # LPIPS' backbone: only scale paper insists on it, elsewhere the column may read n/a.
        lpips = self.composed("evaluate").eval.lpips_weights
        known = self.scale == "paper" and lpips in targets(read_registry())
        self.metric_weights = [lpips] if known else []

    def _check(self) -> None:
        if self.composed("download").source.kind != "rooms" and not self.path:
            raise ConfigError(f"source={self.source} reads a folder of yours: give it as --config path=FOLDER")
        posed = list(dict.fromkeys(run.name for run in self.all if MODELS[run.model].needs_cameras))
        if self.composed("download").source.kind == "unposed" and posed:
            advice = "take study=photos_unposed, or source=photos"
            raise ConfigError(f"source={self.source}: brings no cameras, and {', '.join(posed)} needs them; {advice}")
        for stage in ("preprocess", "evaluate", "figures", "report"):
            self.composed(stage)
        for name in self.estimators:
            self.composed("poses", name)

    def overrides(self, stage: str, name: str = "", phase: str = "", subset: str = "full") -> list[str]:
        """Return the Hydra overrides of a stage, most general first.

        name: the run's, for stage `train`; the estimator's of the cameras, for `poses`, `preprocess` and `evaluate`."""
        scored_on = f"dataset={self.dataset}{suffix(name)}"
        data = [f"source={self.source}", f"dataset={self.dataset}", *([f"path={self.path}"] if self.path else [])]
        variant = variant_of(self.study, name).train if stage == "train" else []
        own = {
            "download": data,
            "poses": [f"poses={name}", f"dataset={self.dataset}"],
            "preprocess": [scored_on],
            "train": [*self._of_run(name, phase), f"phase={phase}", f"dataset={self.dataset}", f"subset={subset}"],
            "evaluate": [scored_on, f"eval={self.data.eval}"],
            "latency": [f"dataset={self.dataset}"],
            "figures": [f"study={self.study.name}", "figure=-"],
            "report": [f"study={self.study.name}"],
        }[stage]
        settings = [word for word in self.settings if stage in OWNERS[_owner(word)]]
        if stage == "poses":
            settings = _of_estimator(settings, name, self.asked)
        return [f"scale={self.scale}", *own, *self.study.overrides.get(stage, []), *variant, *settings]

    def _of_run(self, name: str, phase: str) -> list[str]:
        own = variant_of(self.study, name)
        words = [f"variant={name}"] if name != own.model else []
        words += [f"size={self.scale}/{own.size}"] if own.size else []
        words += [f"recipe={self.scale}/{own.recipe}/{phase}"] if own.recipe else []
        return [f"model={own.model}", *words]

    def composed(self, stage: str, name: str = "", phase: str = "", subset: str = "full", figure: str = "-") -> Any:
        """Return a stage's configuration; name: as for `overrides`. What is asked of the caller, `io`, is empty."""
        # Hydra takes its time: what differs in the subset or the figure alone is composed once.
        own = {"train": {"subset": subset}, "figures": {"figure": figure}}.get(stage, {})
        return replace(self.compose(stage, *self.overrides(stage, name, phase)), **own)

    @functools.cache  # noqa: B019 - one plan lives as long as the process
    def compose(self, stage: str, *words: str) -> Any:
        """Return the configuration of a stage composed of these words and the settings of `runtime`."""
        runtime = [word for word in self.settings if _owner(word) == "runtime"]
        return compose(stage, [*words, *runtime], without_io=True)

    @functools.cache  # noqa: B019
    def stage(self, stage: str, *name: str, out: str = "", models: tuple[str, ...] = (), **which: str) -> Params:
        """Return what a rule's params say of its stage: the file of its configuration, its digest and the code's.

        name, which: as `composed` takes them; out: the folder of the result, for `runtime.code=keep`; models: of the
        weights that it reads."""
        return self._params(stage, self.composed(stage, *name, **which), out, models)

    def call(self, stage: str, *words: str, out: str = "", models: tuple[str, ...] = ()) -> Params:
        """Return the same of a stage that is composed of these words alone (`compose`)."""
        return self._params(stage, self.compose(stage, *words), out, models)

    def _params(self, stage: str, config: Any, out: str, models: tuple[str, ...]) -> Params:
        values = resolved(config)
        digest = digest_of(values)
        path = CONFIGS / f"{stage}-{digest}.yaml"
        if self.writes:
            write_config(path, stage, values, digest, config.runtime)
        nodes = [MODELS[name] for name in models] or ([config.model] if hasattr(config, "model") else [])
        code = source_digest(stage, *sorted({node.code for node in nodes}))
        before = recorded(out) if out and config.runtime.code == "keep" else ("", "")
        if before[0] == digest and before[1] not in ("", code):
            self.kept[out], code = None, before[1]  # the rule's params stay what they were: nothing runs again
        return {"config": str(path), "digest": digest, "source": code}

    def made_by_other_code(self) -> list[str]:
        """Return the folders whose results stay although other code made them, where `runtime.code` is keep."""
        if self.composed("evaluate").runtime.code == "keep":
            self.stage("download", out=f"data/{self.dataset}/raw")
            for dataset, name in self.datasets.items():
                self.stage("preprocess", name, out=f"data/{dataset}/packed")
            for name in self.estimators:
                self.stage("poses", name, out=f"data/{self.dataset}{suffix(name)}/raw")
            for run in self.runs(trained=True):
                self.stage("train", run.name, phase=run.phase, subset=run.subset, out=run.folder)
            for one in self.evaluations:
                self.stage("evaluate", one.estimator, out=one.folder, models=(one.run.model,))
        return [*self.kept]

    def run(self, wildcards: Any) -> Run:
        """Return the run whose folder the wildcards make up."""
        return self._by_place[f"{wildcards.run}/{wildcards.data}/{wildcards.phase}-x{wildcards.res}"]

    def train(self, wildcards: Any) -> Params:
        """Return the params of a training rule."""
        run = self.run(wildcards)
        return self.stage("train", run.name, phase=run.phase, subset=run.subset, out=run.folder)

    def evaluate(self, wildcards: Any) -> Params:
        """Return the params of the rule that evaluates runs; the wildcard `on` is the ending of its data set."""
        run, estimator = self.run(wildcards), wildcards.on.removeprefix("-")
        return self.stage("evaluate", estimator, out=RunEvaluation(run, estimator).folder, models=(run.model,))

    def config_of(self, run: Run) -> Any:
        """Return the configuration of a run's training."""
        return self.composed("train", run.name, run.phase, run.subset)

    def resolution(self, name: str, phase: str) -> str:
        """Return the image size a run is trained at in a phase, as paths have it: `126`, or height x width."""
        return size_name(self.composed("train", name, phase).views)

    def runs(self, *, trained: bool = False, started: bool | None = None) -> list[Run]:
        """Return the study's runs; trained: without adopted ones; started: from earlier weights, or from nothing."""
        kept = [run for run in self.all if not (trained and run.adopted)]
        return kept if started is None else [run for run in kept if bool(run.start) == started]

    def folders(self, runs: Sequence[Run]) -> str:
        """Return a constraint of the wildcard `run` under which a rule's output matches these runs' folders alone."""
        places = "|".join(re.escape(run.place) for run in runs)
        # Looking ahead, because a constraint of one wildcard cannot depend on another's value.
        return f"(?=(?:{places})/)[a-z0-9_]+" if places else "(?!)"

    def estimator_weights(self, name: str) -> list[str]:
        """Return the weights file an estimator reads, if it reads one."""
        path = weights_of(self.composed("poses", name))
        return [path] if path else []

    def backbones(self, run: Run) -> list[str]:
        """Return the registry's files that training a run starts from or needs for its losses."""
        return needed(self.config_of(run), read_registry(), started=bool(run.start))

    def pointmaps(self, run: Run) -> list[str]:
        """Return the folder of the pointmaps that a run is trained with; none without PM-Loss."""
        wanted = self.config_of(run).train.losses.pointmap
        return [f"data/{self.dataset}/pointmaps/{wanted.teacher}-x{run.res}"] if wanted.weight else []

    def pointmap_words(self, teacher: str, res: str) -> list[str]:
        """Return the overrides of the stage that makes the pointmaps of a teacher at the image size of a training."""
        folder = f"data/{self.dataset}/pointmaps/{teacher}-x{res}"
        run = next(run for run in self.runs(trained=True) if folder in self.pointmaps(run))
        views = self.config_of(run).views
        own = [f"views.{key}={getattr(views, key)}" for key in SIZED_BY]
        return [f"scale={self.scale}", f"dataset={self.dataset}", f"teacher={teacher}", *own]

    def teacher_weights(self, teacher: str) -> list[str]:
        """Return the registry's file that a teacher cannot do without."""
        path = self.compose("pointmaps").weights
        return [path] if teacher == "vggt" and path in targets(read_registry()) else []

    @property
    def words(self) -> str:
        """Return the call's own configuration as shell words, `study=lact scale=demo set='train.lr=1'`."""
        given = {key: value for key, value in self.config.items() if key not in ("set", "resources")}
        given |= {"set": shlex.join(self.settings)} if self.settings else {}
        words = {key: shlex.join(value) if isinstance(value, list) else value for key, value in given.items()}
        return shlex.join(f"{key}={value}" for key, value in words.items())


def setting_words(given: Any) -> list[str]:
    """Return the settings of `set` as words, from `a.b=1 c.d=2` or from a mapping, `{a.b: 1, c: {d: 2}}`.

    Raises ConfigError for an open quote and for a key that no stage owns."""
    words = list(_flat(given)) if isinstance(given, Mapping) else split_words(given, "set")
    for word in words:
        name, sign, _ = word.lstrip("+").partition("=")
        if _owner(word) not in OWNERS or not sign or (_owner(word) == name and name not in ALONE):
            raise ConfigError(f"--config set: '{word}' is not key=value with a key under {', '.join(OWNERS)}")
    return words


def _flat(node: Mapping[str, Any], prefix: str = "") -> Iterable[str]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={value if isinstance(value, str) else json.dumps(value)}"


def _owner(word: str) -> str:
    return word.lstrip("+").partition("=")[0].partition(".")[0]


def _of_estimator(settings: Sequence[str], name: str, names: Sequence[str]) -> list[str]:
    """Return the settings meant for estimator `name` of a study's `names`: all but the keys only another one has."""
    own, others = ({field.name for one in some for field in fields(ESTIMATORS[one])} for some in ([name], names))
    keys = [word.lstrip("+~").partition("=")[0].split(".") for word in settings]
    foreign = [key[0] == "poses" and len(key) > 1 and key[1] in others - own for key in keys]
    return [word for word, other in zip(settings, foreign, strict=True) if not other]


def weights_of(config: Any) -> str | None:
    """Return the weights file a stage `poses` needs, None where it needs none."""
    return getattr(config.poses, "weights", None)


def suffix(estimator: str) -> str:
    """Return what an estimator adds to the names of a data set and of an evaluation."""
    return f"-{estimator}" if estimator else ""


def one_of(names: Iterable[str]) -> str:
    """Return a wildcard constraint that matches any of the names, and nothing where there are none."""
    return "|".join(re.escape(name) for name in names) or "(?!)"


def word_list(paths: Sequence[str]) -> str:
    """Return paths as one shell word that Hydra reads as a list."""
    return shlex.quote(f"[{','.join(paths)}]")
