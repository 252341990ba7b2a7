"""Study files, conf/study/{name}.yaml, their runs (every model, training subset and phase with its folder), and the
published checkpoints that stand in the place of runs' first phases (`--config init=...`)."""

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from novelview.config.checkpoints import FOLDER, WEIGHTS, released_checkpoint
from novelview.config.compose import ESTIMATORS, MODELS, conf_dir
from novelview.config.keys import refuse
from novelview.config.schema import SUBSETS, Study, Variant
from novelview.downloads.registry import read_registry
from novelview.errors import ConfigError
from novelview.files import expanded

NAME = re.compile(r"[a-z0-9_]+")  # of runs and phases: they go into paths and wildcards
Size = Callable[[str, str], str]


@dataclass(frozen=True)
class Published:
    """A published checkpoint in the place of a phase: registry name or file, a short name for paths, the phase."""

    source: str
    tag: str
    phase: str


@dataclass(frozen=True)
class Run:
    """One set of weights: trained in `phase`, from those in `start` where there are any.

    name: the run's name, a model's or a variant's; data: folder name that tells the training data apart; res: image
    size in paths, `126` or `72x128`; adopted: the published checkpoint the weights are, empty for a trained run."""

    name: str
    model: str
    phase: str
    subset: str
    data: str
    res: str
    folder: str
    weights: str
    start: str = ""
    adopted: str = ""

    @property
    def place(self) -> str:
        """The end of the folder, which its wildcards make up: `uplvsm/rooms-full/pretrain-x56`."""
        return f"{self.name}/{self.data}/{self.phase}-x{self.res}"


def load_study(name: str) -> Study:
    """Read conf/study/{name}.yaml; raises ConfigError naming the studies that exist, or the wrong key."""
    folder = conf_dir() / "study"
    path = folder / f"{name}.yaml"
    if not NAME.fullmatch(name) or not path.is_file():
        known = ", ".join(sorted(item.stem for item in folder.glob("*.yaml")))
        raise ConfigError(f"study '{name}' does not exist; choose one of {known}")
    try:
        node = {key: value for key, value in OmegaConf.load(path).items() if key != "defaults"}
        study = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Study), node))
    except (OmegaConfBaseException, YAMLError) as error:
        raise ConfigError(f"conf/study/{name}.yaml: {str(error).splitlines()[0]}") from None
    assert isinstance(study, Study)
    _check(study, f"conf/study/{name}.yaml")
    return study


def at_scale(study: Study, scale: str) -> Study:
    """Return the study with the runs it has at a scale as its `models`."""
    return replace(study, models=study.models_at.get(scale, study.models), models_at={})


def variant_of(study: Study, run: str) -> Variant:
    """Return what the run `run` of a study is: its variant, or the model of that name unchanged."""
    return study.variants.get(run) or Variant(model=run)


def phases_of(study: Study, run: str) -> list[str]:
    """Return the phases of a run: its variant's, or all of the study's."""
    return variant_of(study, run).phases or study.phases


def make_runs(study: Study, scale: str, dataset: str, init: Mapping[str, Published], size: Size) -> list[Run]:
    """Return the runs of a study in the order that tables list them: model, subset, phase.

    init: run name -> the published checkpoint it starts from. size: (run name, phase) -> image size in paths.
    Raises ConfigError when two phases of a run share an image size."""
    found: list[Run] = []
    for name in study.models:
        phases = phases_of(study, name)
        sizes = {phase: size(name, phase) for phase in phases}
        if len(set(sizes.values())) < len(sizes):
            raise ConfigError(f"{name}: phases {phases} share the resolution {next(iter(sizes.values()))}; change one")
        for subset in study.subsets.get(scale, ["full"]):
            found += _chain(f"results/{scale}/models/{name}", study, name, (dataset, subset), sizes, init.get(name))
    return list(dict.fromkeys(found))


def _chain(
    root: str, study: Study, name: str, data: tuple[str, str], sizes: dict[str, str], init: Published | None
) -> list[Run]:
    """Return the phases of one model on one subset, each starting from the weights of the one before."""
    model = variant_of(study, name).model
    dataset, subset = data
    own_data = f"{dataset}-{subset}" + (f"-{init.tag}" if init else "")
    found: list[Run] = []
    for phase in phases_of(study, name)[study.phases.index(init.phase) if init else 0 :]:
        last = f"{phase}-x{sizes[phase]}"
        if init and phase == init.phase:
            where = {"data": f"{dataset}-published", "folder": f"{root}/{dataset}-published/{last}"}
            where |= {"weights": f"{root}/published/{last}/model.safetensors", "adopted": init.source}
            found.append(Run(name, model, phase, "full", res=sizes[phase], **where))
        else:
            where = {"folder": f"{root}/{own_data}/{last}", "weights": f"{root}/{own_data}/{last}/model.safetensors"}
            start = found[-1].weights if found else ""
            found.append(Run(name, model, phase, subset, own_data, sizes[phase], start=start, **where))
    return found


def _check(study: Study, where: str) -> None:
    """Raise ConfigError for names that cannot be a path, runs that are no model, and subsets that do not exist."""
    lists = {"models": study.models, "phases": study.phases}
    lists |= {f"models_at.{scale}": names for scale, names in study.models_at.items()}
    for key, names in lists.items():
        wrong = next((name for name in names if not NAME.fullmatch(name)), None)
        refuse(wrong is not None, f"{where}: {key}: '{wrong}': use small letters, digits and _")
    subsets = {f"subsets.{scale}": names for scale, names in study.subsets.items()}
    poses = {f"poses.{scale}": names for scale, names in study.poses.items() if names}
    for key, names in (lists | subsets | poses).items():
        several = not names or len(set(names)) < len(names)
        refuse(several, f"{where}: {key}: name each once, and at least one; found {names}")
    for name, variant in study.variants.items():
        refuse(name in MODELS, f"{where}: variants.{name}: is the name of a model; choose another")
        first = study.phases[: len(variant.phases)]
        message = f"{where}: variants.{name}.phases: give the first of {study.phases}; found {variant.phases}"
        refuse(variant.phases != first, message)
    runs = list(dict.fromkeys(run for key, names in lists.items() if key != "phases" for run in names))
    for model in (variant_of(study, run).model for run in runs):
        known = ", ".join(sorted({*MODELS, *study.variants}))
        refuse(model not in MODELS, f"{where}: '{model}' is neither a model nor a variant; choose one of {known}")
    for scale in study.models_at:
        known = ", ".join(study.data)
        refuse(scale not in study.data, f"{where}: models_at.{scale}: no such scale in data; choose one of {known}")
    estimators = [name for name in ESTIMATORS if name != "given"]
    for key, names in (subsets | poses).items():
        known_names = estimators if key in poses else list(SUBSETS)
        for name in names:
            refuse(name not in known_names, f"{where}: {key}: '{name}': choose one of {', '.join(known_names)}")
    for run in study.pose_free:
        refuse(run not in runs, f"{where}: pose_free: '{run}' is no run; choose one of {', '.join(runs)}")


HOW = "give a name of conf/registry.yaml or of released/, RUN=FILE, or RUN/PHASE=FILE"


def read_init(given: Any, study: Study) -> dict[str, Published]:
    """Return run name -> published checkpoint for `--config init="NAME RUN=FILE RUN/PHASE=FILE"`.

    A NAME is one of conf/registry.yaml or of released/; the latter may also stand for FILE. A bare FILE goes to the
    only run of a study. Raises ConfigError for names that neither the registry nor the study knows, for files that do
    not exist, and for released ones that are damaged."""
    found: dict[str, Published] = {}
    for word in split_words(given, "init"):
        run, published = _initial(word, study)
        refuse(run in found, f"--config init: two checkpoints for {run}; give one")
        found[run] = published
    return found


def split_words(given: Any, key: str) -> list[str]:
    """Return the words of a `--config` value, quoted as in a shell; raises ConfigError for an open quote."""
    try:
        return [str(word) for word in (given if isinstance(given, list) else shlex.split(str(given or "")))]
    except ValueError:
        raise ConfigError(f"--config {key}: a quote in {given} is not closed; quote each value as a whole") from None


def _initial(word: str, study: Study) -> tuple[str, Published]:
    registry = read_registry()
    left, equals, right = word.partition("=")
    if not equals and word in registry:
        words = dict(part.split("=", 1) for part in registry[word].adopt)
        run, phase = words.get("variant", words.get("model", "")), words.get("phase", study.phases[0])
        what = f"is {words['model']}, {phase}" if words else "is no checkpoint of a model here"
        return _fitting(word, study, [run], what, Published(word, _tag(word), phase))
    if not equals and _is_released(word):
        found = released_checkpoint(Path(FOLDER, word))
        runs = [run for run in study.models if variant_of(study, run).model == found.model]
        phase = found.config["phase"]
        return _fitting(word, study, runs, f"is {found.model}, {phase}", Published(found.weights, word, phase))
    if not equals and len(study.models) > 1:
        known = ", ".join(name for name, entry in registry.items() if entry.adopt)
        raise ConfigError(f"--config init={word}: not one of {known}, and the study has several runs; {HOW}")
    run, _, phase = left.partition("/") if equals else (study.models[0], "", "")
    phase = phase or study.phases[0]
    if run not in study.models or phase not in study.phases:
        raise ConfigError(f"--config init={word}: runs are {', '.join(study.models)}, phases {', '.join(study.phases)}")
    given = right if equals else word
    file = released_checkpoint(Path(FOLDER, given)).weights if _is_released(given) else given
    refuse(not expanded(file).is_file(), f"--config init={word}: {file} is no file; {HOW}")
    return run, Published(file, _tag(Path(given).stem), phase)


def _is_released(name: str) -> bool:
    return Path(FOLDER, name, WEIGHTS).is_file() and "/" not in name


def _fitting(name: str, study: Study, runs: list[str], what: str, published: Published) -> tuple[str, Published]:
    """Return the first of `runs` that the study has with a checkpoint that stands for one of its phases."""
    own = [run for run in runs if run in study.models]
    if not own or published.phase not in study.phases:
        raise ConfigError(f"--config init={name}: {what}; this study has {', '.join(study.models)}")
    return own[0], published


def _tag(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "_", name).strip("._") or "checkpoint"
