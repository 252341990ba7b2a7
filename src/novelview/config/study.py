"""A study as the workflow sees it: which stages run, with which overrides, and where their files lie."""

import functools
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from novelview.config.compose import compose, conf_dir, digest
from novelview.config.digest import source_digest
from novelview.config.schema import Study
from novelview.errors import ConfigError

OWNERS = {
    "source": ("download",),
    "pack": ("preprocess",),
    "model": ("train",),
    "views": ("train",),
    "train": ("train",),
    "eval": ("evaluate",),
    "runtime": (),  # travels beside the rules' params: it never reruns anything
}
KEYS = ("study", "scale", "source", "path", "name", "set")


def load_study(name: str) -> Study:
    """Read conf/study/{name}.yaml; raises ConfigError naming the studies that exist, or the wrong key."""
    folder = conf_dir() / "study"
    path = folder / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(item.stem for item in folder.glob("*.yaml")))
        raise ConfigError(f"study '{name}' does not exist; choose one of {known}")
    try:
        node = {key: value for key, value in OmegaConf.load(path).items() if key != "defaults"}
        merged = OmegaConf.merge(OmegaConf.structured(Study), node)
        study = OmegaConf.to_object(merged)
    except (OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(f"conf/study/{name}.yaml: {str(error).splitlines()[0]}") from None
    assert isinstance(study, Study)
    return study


class Plan:
    """Overrides, digests and paths of every stage of one `snakemake --config ...` call."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        """Check the workflow's own configuration and every stage's; raises ConfigError, one line."""
        unknown = sorted(set(config) - set(KEYS))
        if unknown:
            raise ConfigError(f"--config {unknown[0]}=...: unknown; the workflow takes {', '.join(KEYS)}")
        self.scale = str(config.get("scale", "demo"))
        self.study = load_study(str(config.get("study", "less3depend")))
        if self.scale not in self.study.data:
            raise ConfigError(f"scale '{self.scale}' does not exist; choose one of {', '.join(self.study.data)}")
        self.data = self.study.data[self.scale]
        self.path = config.get("path") or self.data.path
        self.source = str(config.get("source") or self.data.source)
        self.dataset = str(config.get("name") or self.data.dataset)
        self._set, self.run_only = _assign(config.get("set"))
        self._check()

    def _check(self) -> None:
        compose("preprocess", [*self.overrides("preprocess"), *self.run_only])
        needs_path = compose("download", self.overrides("download")).source.kind != "rooms"
        if needs_path and not self.path:
            raise ConfigError(f"source={self.source} reads a folder of yours: give it as --config path=FOLDER")
        for stage in ("download", "preprocess", "evaluate", "figures", "report"):
            self.stage(stage)
        for model in self.study.models:
            sizes = [self.resolution(model, phase) for phase in self.study.phases]
            if len(set(sizes)) < len(sizes):
                raise ConfigError(f"{model}: phases {self.study.phases} share the resolution {sizes[0]}; change one")

    def overrides(self, stage: str, model: str = "", phase: str = "", figure: str = "-") -> list[str]:
        """Return the Hydra overrides of a stage, most general first."""
        own = {
            "download": [
                f"source={self.source}",
                f"dataset={self.dataset}",
                *([f"path={self.path}"] if self.path else []),
            ],
            "preprocess": [f"dataset={self.dataset}"],
            "train": [f"model={model}", f"phase={phase}", f"dataset={self.dataset}"],
            "evaluate": [f"dataset={self.dataset}", f"eval={self.data.eval}", "io.weights=-", "io.out=-"],
            "figures": [f"study={self.study.name}", f"figure={figure}", "io.out=-"],
            "report": [f"study={self.study.name}", "io.figures=-", "io.out=-"],
        }[stage]
        study = self.study.overrides.get(stage, [])
        return [f"scale={self.scale}", *own, *study, *self._set.get(stage, [])]

    @functools.cache  # noqa: B019 - one plan lives as long as the process
    def stage(self, name: str, model: str = "", phase: str = "", figure: str = "-") -> dict[str, str]:
        """Return a rule's params: the overrides as shell words, the configuration's and the sources' digests."""
        overrides = self.overrides(name, model, phase, figure)
        config = compose(name, overrides)
        words = [word for word in overrides if not word.startswith("io.")]
        return {
            "overrides": " ".join(shlex.quote(word) for word in words),
            "digest": digest(config),
            "source": source_digest(name),
        }

    @functools.cache  # noqa: B019
    def resolution(self, model: str, phase: str) -> int:
        """Return the image size a model is trained at in a phase."""
        return compose("train", self.overrides("train", model, phase)).views.image_size

    def sizes(self, phase: str) -> str:
        """Return a wildcard constraint that matches the resolutions of a phase."""
        return "|".join(sorted({str(self.resolution(model, phase)) for model in self.study.models}))

    def run(self, model: str, phase: str) -> str:
        """Return the folder of one trained model."""
        return f"results/{self.scale}/models/{model}/{self.dataset}-full/x{self.resolution(model, phase)}"

    def runs(self, phases: Sequence[str] = ()) -> list[str]:
        """Return the folders of all models, in the given or all phases."""
        return [self.run(model, phase) for model in self.study.models for phase in phases or self.study.phases]

    @property
    def figures(self) -> list[str]:
        """Return the study's figures."""
        return self.study.figures

    @property
    def tables(self) -> list[str]:
        """Return the study's tables."""
        return self.study.tables

    @property
    def tag(self) -> str:
        """Return the study's name in the names of log files."""
        return self.results.removeprefix("results/").replace("/", "-")

    @property
    def train_threads(self) -> int:
        """Return threads a training or evaluation job takes: one at demo scale, so two jobs share two cores."""
        return {"demo": 1}.get(self.scale, 8)

    @property
    def gpus(self) -> int:
        """Return GPUs a training or evaluation job asks a cluster for."""
        return {"demo": 0, "mini": 1}.get(self.scale, 8)

    def launcher(self, gpus: int) -> str:
        """Return the command that starts a module: one process a GPU through torchrun where there are several."""
        return f"torchrun --standalone --nproc-per-node {gpus}" if gpus > 1 else "python"

    def listed(self, paths: Sequence[str]) -> str:
        """Return paths as one shell word that Hydra reads as a list."""
        return shlex.quote(f"[{','.join(paths)}]")

    @property
    def results(self) -> str:
        """Return the folder of the study's tables, figures and report."""
        suffix = "" if self.dataset == self.data.dataset else f"-{self.dataset}"
        return f"results/{self.scale}/{self.study.name}{suffix}"


def _assign(given: Any) -> tuple[dict[str, list[str]], list[str]]:
    """Sort `--config set="a.b=1 c.d=2"` into the stages that own each key, and those under `runtime`."""
    try:
        words = [str(word) for word in (given if isinstance(given, list) else shlex.split(str(given or "")))]
    except ValueError:
        raise ConfigError(f"--config set: a quote in {given} is not closed; quote each value as a whole") from None
    assigned: dict[str, list[str]] = {}
    for word in words:
        owner = word.lstrip("+").partition(".")[0]
        if owner not in OWNERS or "=" not in word:
            raise ConfigError(f"--config set: '{word}' is not key=value with a key under {', '.join(OWNERS)}")
        for stage in OWNERS[owner]:
            assigned.setdefault(stage, []).append(word)
    return assigned, [word for word in words if word.startswith("runtime.")]
