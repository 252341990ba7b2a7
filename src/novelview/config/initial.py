"""Published checkpoints in the place of runs' first phases: what `--config init=...` names."""

import re
import shlex
from pathlib import Path
from typing import Any

from novelview.config.checkpoints import FOLDER, WEIGHTS, released_checkpoint
from novelview.config.schema import Study
from novelview.config.study import Published, variant_of
from novelview.downloads.registry import read_registry
from novelview.errors import ConfigError

HOW = "give a name of conf/registry.yaml or of released/, RUN=FILE, or RUN/PHASE=FILE"


def read_init(given: Any, study: Study) -> dict[str, Published]:
    """Return run name -> published checkpoint for `--config init="NAME RUN=FILE RUN/PHASE=FILE"`.

    A NAME is one of conf/registry.yaml or of released/; the latter may also stand for FILE. A bare FILE goes to the
    only run of a study. Raises ConfigError for names that neither the registry nor the study knows, for files that do
    not exist, and for released ones that are damaged."""
    found: dict[str, Published] = {}
    for word in split_words(given, "init"):
        run, published = _initial(word, study)
        if run in found:
            raise ConfigError(f"--config init: two checkpoints for {run}; give one")
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
    if not Path(file).expanduser().is_file():
        raise ConfigError(f"--config init={word}: {file} is no file; {HOW}")
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
