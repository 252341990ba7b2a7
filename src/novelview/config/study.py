"""Study files: conf/study/{name}.yaml as a checked dataclass."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from novelview.config.compose import ESTIMATORS, MODELS, conf_dir
from novelview.config.schema import SUBSETS, Study, Variant
from novelview.errors import ConfigError

NAME = re.compile(r"[a-z0-9_]+")  # of runs and phases: they go into paths and wildcards


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


def _check(study: Study, where: str) -> None:
    """Raise ConfigError for names that cannot be a path, runs that are no model, and subsets that do not exist."""
    models = set(MODELS)
    for kind, names in _named(study):
        for name in names:
            if not NAME.fullmatch(name):
                raise ConfigError(f"{where}: {kind}: '{name}': use small letters, digits and _")
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"{where}: {kind}: name each once, and at least one; found {names}")
    _check_variants(study, where, models)
    for run in _runs(study):
        model = variant_of(study, run).model
        if model not in models:
            known = ", ".join(sorted(models | set(study.variants)))
            raise ConfigError(f"{where}: '{model}' is neither a model nor a variant; choose one of {known}")
    _check_scales(study, where)
    _check_subsets(study, where)
    _check_poses(study, where)


def _check_variants(study: Study, where: str, models: set[str]) -> None:
    for name, variant in study.variants.items():
        if name in models:
            raise ConfigError(f"{where}: variants.{name}: is the name of a model; choose another")
        own = variant.phases
        if own != study.phases[: len(own)]:
            raise ConfigError(f"{where}: variants.{name}.phases: give the first of {study.phases}; found {own}")


def _named(study: Study) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield (key, names) of every list that names each thing once."""
    yield from (("models", study.models), ("phases", study.phases))
    yield from ((f"models_at.{scale}", names) for scale, names in study.models_at.items())


def _runs(study: Study) -> list[str]:
    """Return the runs of all scales."""
    return list(dict.fromkeys([*study.models, *(run for names in study.models_at.values() for run in names)]))


def _check_scales(study: Study, where: str) -> None:
    for scale in study.models_at:
        if scale not in study.data:
            raise ConfigError(
                f"{where}: models_at.{scale}: no such scale in data; choose one of {', '.join(study.data)}"
            )


def _check_subsets(study: Study, where: str) -> None:
    for scale, subsets in study.subsets.items():
        for subset in subsets:
            if subset not in SUBSETS:
                raise ConfigError(f"{where}: subsets.{scale}: '{subset}': choose one of {', '.join(SUBSETS)}")
        if not subsets or len(set(subsets)) < len(subsets):
            raise ConfigError(f"{where}: subsets.{scale}: name each once, and at least one; found {subsets}")


def _check_poses(study: Study, where: str) -> None:
    known = [name for name in ESTIMATORS if name != "given"]
    for scale, names in study.poses.items():
        for name in names:
            if name not in known:
                raise ConfigError(f"{where}: poses.{scale}: '{name}': choose one of {', '.join(known)}")
        if len(set(names)) < len(names):
            raise ConfigError(f"{where}: poses.{scale}: name each once; found {names}")
    for run in study.pose_free:
        if run not in _runs(study):
            raise ConfigError(f"{where}: pose_free: '{run}' is no run; choose one of {', '.join(_runs(study))}")
