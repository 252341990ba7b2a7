"""`--config init=...`: the published checkpoints that take the place of a run's first phases."""

import re
from pathlib import Path
from typing import Any

from novelview.config.released import FOLDER, WEIGHTS, Released, read_one
from novelview.config.runs import Published
from novelview.config.schema import Study
from novelview.config.settings import split_words
from novelview.config.study import variant_of
from novelview.downloads.registry import read_registry
from novelview.errors import ConfigError

HOW = "give a name of conf/registry.yaml or of released/, RUN=FILE, or RUN/PHASE=FILE"


def read_init(given: Any, study: Study) -> dict[str, Published]:
    """Return run name -> published checkpoint for `--config init="NAME RUN=FILE RUN/PHASE=FILE"`.

    A NAME is one of conf/registry.yaml or of released/; the latter may also stand for FILE. A bare FILE goes to the
    only run of a study. Raises ConfigError for names that neither the registry nor the study knows, for files that do
    not exist, and for released ones that are damaged.
    """
    found: dict[str, Published] = {}
    for word in split_words(given, "init"):
        run, published = _one(word, study)
        if run in found:
            raise ConfigError(f"--config init: two checkpoints for {run}; give one")
        found[run] = published
    return found


def _one(word: str, study: Study) -> tuple[str, Published]:
    registry = read_registry()
    left, equals, right = word.partition("=")
    if not equals and word in registry:
        return _registered(word, registry[word].adopt, study)
    if not equals and _is_released(word):
        return _released(word, read_one(Path(FOLDER, word)), study)
    if not equals and len(study.models) > 1:
        known = ", ".join(name for name, entry in registry.items() if entry.adopt)
        raise ConfigError(f"--config init={word}: not one of {known}, and the study has several runs; {HOW}")
    run, _, phase = left.partition("/") if equals else (study.models[0], "", "")
    phase = phase or study.phases[0]
    if run not in study.models or phase not in study.phases:
        raise ConfigError(f"--config init={word}: runs are {', '.join(study.models)}, phases {', '.join(study.phases)}")
    given = right if equals else word
    file = read_one(Path(FOLDER, given)).weights if _is_released(given) else given
    if not Path(file).expanduser().is_file():
        raise ConfigError(f"--config init={word}: {file} is no file; {HOW}")
    return run, Published(file, _tag(Path(given).stem), phase)


def _is_released(name: str) -> bool:
    return Path(FOLDER, name, WEIGHTS).is_file() and "/" not in name


def _released(name: str, found: Released, study: Study) -> tuple[str, Published]:
    """Return the run that a released checkpoint fits: the study's first one of its model, at its phase."""
    runs = [run for run in study.models if variant_of(study, run).model == found.model]
    phase = found.config["phase"]
    if not runs or phase not in study.phases:
        raise ConfigError(f"--config init={name}: is {found.model}, {phase}; this study has {', '.join(study.models)}")
    return runs[0], Published(found.weights, name, phase)


def _registered(name: str, adopt: list[str], study: Study) -> tuple[str, Published]:
    """Return the run that a checkpoint of the registry fits: the study's one of its model, at its phase."""
    told = dict(word.split("=", 1) for word in adopt)
    runs = [run for run in study.models if run == told.get("variant", told.get("model"))]
    if not runs or told.get("phase", study.phases[0]) not in study.phases:
        what = (
            f"is {told['model']}, {told.get('phase', study.phases[0])}" if told else "is no checkpoint of a model here"
        )
        raise ConfigError(f"--config init={name}: {what}; this study has {', '.join(study.models)}")
    return runs[0], Published(name, _tag(name), told.get("phase", study.phases[0]))


def _tag(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "_", name).strip("._") or "checkpoint"
