"""Options of the groups `size`, `recipe` and `phase`: what the files of conf/models hold, given to Hydra.

conf/models/NAME.yaml has `sizes: {SCALE: {...}}` and `recipes: {SCALE: {PHASE: {...}}}` of a model, and under
`variants` the same of each other name. They become `size=SCALE/NAME` and `recipe=SCALE/NAME/PHASE`. A node takes over
what `extends` names, `[SCALE/]NAME[/PHASE]`; a variant's own `extends` counts for each of its nodes without one."""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from hydra.core.config_store import ConfigNode, ConfigStore
from omegaconf import OmegaConf

from novelview.errors import ConfigError

PACKAGES = {"size": "model", "recipe": "_global_", "phase": "_global_"}  # group -> the node its values go to


class Option(NamedTuple):
    """Values of one option, and the places they come from: (file below conf, key in it), the last one its own."""

    package: str
    values: dict[str, Any]
    origins: tuple[tuple[str, str], ...] = ()


def read_options(conf: Path) -> dict[str, Option]:
    """Return every option of conf/models by its path, `recipe/demo/lact/pretrain`.

    Raises ConfigError, one line, for a file that is no such mapping and for `extends` that names nothing."""
    state = tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(conf.glob("models/*.yaml")))
    return _read(state)


@functools.lru_cache(maxsize=4)
def _read(state: tuple[tuple[Path, int, int], ...]) -> dict[str, Option]:
    nodes: dict[str, Node] = {}
    for option, (file, key, values) in (node for path, *_ in state for node in _nodes(path)):
        if option in nodes:
            raise ConfigError(f"conf/{file}: {key}: stands in conf/{nodes[option][0]}, too; choose another name")
        nodes[option] = file, key, values
    found: dict[str, Option] = {}
    for path in nodes:
        _resolve(path, nodes, found, ())
    for path in [path for path in found if path.startswith("recipe/")]:
        phase = path.rpartition("/")[2]
        found[f"phase/{phase}"] = Option(PACKAGES["phase"], {"phase": phase})
    return found


def register(conf: Path) -> None:
    """Give the options to Hydra's ConfigStore, in place of those of another or an earlier tree."""
    options, store = read_options(conf), ConfigStore.instance()
    store.repo = _Group({name: node for name, node in store.repo.items() if name not in PACKAGES})
    for path, option in options.items():
        *groups, name = path.split("/")
        node = functools.reduce(lambda group, inner: group.setdefault(inner, _Group()), groups, store.repo)
        node[f"{name}.yaml"] = option


class _Group(dict[str, Any]):
    """A group of ConfigStore that makes a node when it is read, and that is shared by the store's copies.

    Hydra copies the whole store for each composition, and each node again when it reads one: the first copy takes
    longer than all the rest."""

    def __getitem__(self, name: str) -> Any:
        value = super().__getitem__(name)
        if isinstance(value, Option):
            value = ConfigNode(name, OmegaConf.create(value.values), None, value.package, None)
            self[name] = value
        return value

    def __deepcopy__(self, memo: Any) -> "_Group":
        return self


Node = tuple[str, str, dict[str, Any]]  # file, key in it, values


def _nodes(path: Path) -> Iterator[tuple[str, Node]]:
    """Yield every option of a file as it stands there, with its path."""
    file = f"models/{path.name}"
    try:
        content = _mapping(yaml.load(path.read_bytes(), UniqueKeyLoader), file)
    except yaml.YAMLError as error:
        raise ConfigError(f"conf/{file}: {' '.join(str(error).split())}") from None
    variants = _mapping(content.pop("variants", {}), f"{file}: variants")
    yield from _entry(path.stem, content, file, "")
    for name, entry in variants.items():
        yield from _entry(name, entry, file, f"variants.{name}.")


def _entry(name: str, entry: Any, file: str, prefix: str) -> Iterator[tuple[str, Node]]:
    unknown = sorted(set(_mapping(entry, f"{file}: {prefix}".rstrip(". :"))) - {"extends", "sizes", "recipes"})
    if unknown:
        raise ConfigError(f"conf/{file}: {prefix}{unknown[0]}: unknown; give sizes, recipes, extends or variants")
    default = {"extends": entry["extends"]} if "extends" in entry else {}
    for scale, values in _mapping(entry.get("sizes", {}), f"{file}: {prefix}sizes").items():
        key = f"{prefix}sizes.{scale}"
        yield f"size/{scale}/{name}", (file, key, {**default, **_mapping(values, f"{file}: {key}")})
    for scale, phases in _mapping(entry.get("recipes", {}), f"{file}: {prefix}recipes").items():
        for phase, values in _mapping(phases, f"{file}: {prefix}recipes.{scale}").items():
            key = f"{prefix}recipes.{scale}.{phase}"
            yield f"recipe/{scale}/{name}/{phase}", (file, key, {**default, **_mapping(values, f"{file}: {key}")})


def _resolve(path: str, nodes: Mapping[str, Node], found: dict[str, Option], above: tuple[str, ...]) -> Option:
    """Return an option with what it extends; `above`: the options that extend it."""
    file, key, own = nodes[path]
    group = path.partition("/")[0]
    if path not in found:
        values, origins = own, ((file, key),)
        if "extends" in own:
            target = _extended(path, str(own["extends"]), nodes)
            if target not in nodes or target in (path, *above):
                raise ConfigError(f"conf/{file}: {key}.extends={own['extends']}: no other {group} is called so")
            base = _resolve(target, nodes, found, (path, *above))
            values = _merged(base.values, {name: value for name, value in own.items() if name != "extends"})
            origins = (*base.origins, *origins)
        found[path] = Option(PACKAGES[group], values, origins)
    return found[path]


def _extended(path: str, word: str, nodes: Mapping[str, Any]) -> str:
    """Return the option that `[SCALE/]NAME[/PHASE]` names; what is left out is that of `path`."""
    group, scale, _, *phase = path.split("/")
    words = word.split("/")
    if any(other.startswith(f"{group}/{words[0]}/") for other in nodes):
        scale = words.pop(0)
    return "/".join([group, scale, *words, *(phase if len(words) == 1 else ())])


def _merged(base: Any, own: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(own, dict)):
        return own
    return {**base, **{key: _merged(base.get(key), value) for key, value in own.items()}}


class UniqueKeyLoader(yaml.CSafeLoader):
    """YAML in which no key stands twice in a mapping, as Hydra reads it."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"key '{twice[0]}' stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"conf/{where}: give a mapping, not {value!r}")
    return value
