"""A stage's configuration as one typed dataclass: composed with Hydra, or read from a file that was composed before.

What is wrong is one line, ConfigError."""

import functools
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from novelview.config import models, options, schema, sources, stages
from novelview.config.digest import RUN_ONLY, digest
from novelview.config.keys import refuse, validate
from novelview.config.schema import Resolution
from novelview.errors import ConfigError
from novelview.files import write_text


def _nodes(module: ModuleType, base: type, key: str = "") -> dict[str, Any]:
    """Return a module's nodes of a base class by the value of `key`, or by the class' name without `Stage`."""
    own = [node for node in vars(module).values() if isinstance(node, type) and issubclass(node, base)]
    names = [getattr(node, key, MISSING) if key else node.__name__.removesuffix("Stage").lower() for node in own]
    return {
        name: node
        for name, node in zip(names, own, strict=True)
        if name not in (MISSING, "data", "scene", "stageconfig")
    }


STAGES: dict[str, type] = _nodes(stages, stages.StageConfig)
SOURCES: dict[str, type[sources.SourceConfig]] = _nodes(sources, sources.SourceConfig, "kind")
MODELS: dict[str, type[models.ModelConfig]] = _nodes(models, models.ModelConfig, "name")
ESTIMATORS: dict[str, type[sources.EstimatorConfig]] = _nodes(sources, sources.EstimatorConfig, "kind")
# Nodes of which there are several kinds: the key that tells them apart, and the kinds.
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "model": ("name", MODELS),
    "source": ("kind", SOURCES),
    "poses": ("kind", ESTIMATORS),
}
LISTS = ("io.inputs", "io.curves", "io.extras", "io.models", "io.before", "io.showcase")
AGAIN = "plan again with `snakemake -n`, or leave --config out to compose it anew"


def conf_dir() -> Path:
    """Return the Hydra tree: `NOVELVIEW_CONF` where set, else the checkout's `conf`, else the one inside the wheel.

    Raises ConfigError when there is none."""
    named, package = os.environ.get("NOVELVIEW_CONF"), Path(__file__).resolve().parents[1]
    folders = [Path(named)] if named else [package.parents[1] / "conf", package / "conf"]
    for folder in folders:
        if (folder / "stage").is_dir():
            return folder.resolve()
    raise ConfigError(f"{folders[0]}: no configuration tree here; set NOVELVIEW_CONF to the checkout's conf folder")


@functools.cache
def _register() -> None:
    OmegaConf.register_new_resolver("size_name", lambda height, width: str(Resolution(height, width or height)))
    store = ConfigStore.instance()
    for name, node in STAGES.items():
        store.store(group="stage", name=f"{name}_schema", node=node, package="_global_")
    store.store(group="study", name="study_schema", node=schema.Study)
    store.store(group="camera_path", name="camera_path_schema", node=stages.PathConfig)
    for name, node in SOURCES.items():
        store.store(group="source", name=f"{name}_schema", node=node)
    for name, node in ESTIMATORS.items():
        store.store(group="poses", name=name, node=node)
    for name, node in MODELS.items():
        store.store(group="model", name=name, node=node)


def compose(stage: str, overrides: Sequence[str] = (), *, without_io: bool = False) -> Any:
    """Compose and type-check the configuration of `stage`; return its dataclass (`STAGES[stage]`).

    without_io: leave `io` empty and ask for none of its keys, as a plan does that does not call the stage.
    Raises ConfigError, one line, for an unknown stage, group option, key, type or value."""
    if stage not in STAGES:
        raise ConfigError(f"stage '{stage}' does not exist; choose one of {', '.join(STAGES)}")
    start_hydra(str(conf_dir()))
    options.register(conf_dir())
    try:
        node = hydra_compose(f"stage/{stage}", overrides=[quoted(word) for word in overrides])
        if without_io:
            node.io = {}
        return _typed(node)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"stage {stage}: {_one_line(error, overrides)}") from None


@functools.lru_cache(maxsize=1)
def start_hydra(folder: str) -> None:
    """Have Hydra read the configuration tree `folder` from now on; again only when another tree is named."""
    _register()
    GlobalHydra.instance().clear()
    initialize_config_dir(folder, version_base="1.3")


def write_config(
    path: Path, stage: str, values: dict[str, Any], known: str, runtime: Any = None, code: str = ""
) -> None:
    """Write a configuration as a file that `read_config_file` takes, unless it is there already.

    values: what `resolved` made of it; known: their digest; runtime: that node, where the file is to hold it; code: the
    digest of the code that made a result. The digest is the last line, so that a file that was cut off is known."""
    if runtime is not None:
        values = {**values, "runtime": asdict(runtime)}
    head = f"# Stage {stage}, composed; run it: python -m novelview.stages.{stage} --config FILE io.KEY=... [...]\n"
    content = {"stage": stage, "config": values, **({"code": code} if code else {}), "digest": known}
    text = head + yaml.dump(content, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True, width=120)
    if not path.is_file() or path.read_bytes() != text.encode():
        write_text(path, text)


def read_config_file(stage: str, path: Path | str, words: Sequence[str] = ()) -> Any:
    """Return the configuration of `stage` in a file of `write_config`; words: `io.KEY=...` and `runtime.KEY=...`.

    Raises ConfigError, one line, for a file that is missing, damaged, changed or of another stage, and for other words.
    """
    for word in words:
        if word.lstrip("+").partition(".")[0] not in RUN_ONLY:
            raise ConfigError(f"{word}: beside --config only words under io. and runtime. are taken; {AGAIN}")
    values, known = _content(stage, path)
    defaults = OmegaConf.load(conf_dir() / "stage" / f"{stage}.yaml")
    try:
        node = OmegaConf.structured(STAGES[stage])
        for key, (name, kinds) in KINDS.items():
            if key in values:
                node[key] = OmegaConf.structured(kinds[values[key][name]])
        node = OmegaConf.merge(node, values, {"io": OmegaConf.select(defaults, "io")})
    except (OmegaConfBaseException, KeyError, TypeError, ValueError) as error:
        first = " ".join(str(error).splitlines()[:1])
        raise ConfigError(f"{path}: no configuration of stage {stage} of this version ({first}); {AGAIN}") from None
    OmegaConf.set_struct(node, True)
    try:
        for word in OverridesParser.create().parse_overrides([quoted(word) for word in words]):
            OmegaConf.update(node, word.key_or_group, word.value(), force_add=False)
        config = _typed(node)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"stage {stage}: {_one_line(error, words)}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    refuse(digest(config) != known, f"{path}: was changed after it was written; {AGAIN}")
    return config


def _content(stage: str, path: Path | str) -> tuple[dict[str, Any], str]:
    """Return the values and the digest in a configuration file."""
    try:
        content = yaml.load(Path(path).read_bytes(), yaml.CSafeLoader)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; {AGAIN}") from None
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({' '.join(str(error).split())[:80]}); {AGAIN}") from None
    if not isinstance(content, dict) or set(content) - {"code"} != {"stage", "config", "digest"}:
        raise ConfigError(f"{path}: no configuration that a plan or a stage wrote, or cut off; {AGAIN}")
    if content["stage"] != stage or not isinstance(content["config"], dict):
        raise ConfigError(f"{path}: is of stage {content['stage']}, not {stage}; give the file of this stage")
    return content["config"], str(content["digest"])


def recorded(folder: Path | str) -> tuple[str, str]:
    """Return the digests of the configuration and the code that made the result in a folder; empty where none says."""
    with suppress(OSError, yaml.YAMLError, UnicodeDecodeError):
        content = yaml.load((Path(folder) / "config.yaml").read_bytes(), yaml.CSafeLoader)
        if isinstance(content, dict):
            return str(content.get("digest", "")), str(content.get("code", ""))
    return "", ""


def quoted(override: str) -> str:
    """Return `key=value` with the value of a path quoted for Hydra and `~` expanded; other overrides as they are.

    Paths are the keys `path`, `dataset`, `source.images`, those under `io` that hold one, and all that end in
    `weights`; and Hydra's grammar knows no letters beyond ASCII. A value
    that is already quoted, `null` or empty stays as it is; a `${key}` in it is still replaced."""
    key, equals, value = override.partition("=")
    name = key.lstrip("+")
    is_path = (
        not value.isascii()
        or name in ("path", "source.images", "dataset")
        or name.startswith("io.")
        or name.rpartition(".")[2].endswith("weights")
    )
    is_quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    if not (equals and is_path) or name in LISTS or is_quoted or value in ("", "null", "???"):
        return override
    # Inside Hydra's quotes a backslash is special only before a quote, the closing one included.
    inner = re.sub(r"(\\*)'", lambda found: 2 * found[1] + "\\'", os.path.expanduser(value))
    tail = len(inner) - len(inner.rstrip("\\"))
    return f"{key}='{inner}{chr(92) * tail}'"


def _typed(node: Any) -> Any:
    missing = _missing(OmegaConf.to_container(node))
    if missing:
        raise ConfigError(f"configuration key '{missing[0]}' has no value; give it as {missing[0]}=...")
    OmegaConf.resolve(node)
    typed: Any = OmegaConf.to_object(node)
    validate(typed)
    if isinstance(typed, stages.TrainStage) and typed.train.amp == "auto":  # a digest is of what is computed
        typed.train.amp = "bf16" if multiplies_bf16(typed.runtime.device) else "none"
    return typed


@functools.cache
def multiplies_bf16(device: str) -> bool:
    """Tell whether what `runtime.device` stands for here multiplies bfloat16 in hardware, without asking torch."""
    if device != "cpu" and any(Path("/dev").glob("nvidia[0-9]*")):
        return True
    with suppress(OSError):
        words = set(Path("/proc/cpuinfo").read_text().split())
        return not words.isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})
    return False


def _missing(node: Any, prefix: str = "") -> list[str]:
    """Return the keys without a value, sorted; those that only point at one of them (`${...}`) are not named."""
    if not isinstance(node, dict):
        return [prefix] if node == MISSING else []
    return [key for name in sorted(map(str, node)) for key in _missing(node[name], f"{prefix}.{name}".lstrip("."))]


def _one_line(error: Exception, overrides: Sequence[str]) -> str:
    """Keep what Hydra and OmegaConf say about the cause: the key, the type, the nearest options."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    noise = ("reference_type", "object_type", "See http", "Set the environment", "Could not override", "You may")
    lines = [line.strip() for line in str(cause).splitlines()]
    text = " ".join(line for line in lines if line and not line.startswith((*noise, "full_key")))
    text = text.partition("Config search path:")[0].strip()
    key = getattr(cause, "full_key", None) or ""
    where = f" at key {key}" if key else ""
    given = f"; given: {' '.join(overrides)}" if overrides else ""
    return f"{text}{where}{given}; docs/config.md lists every key"
