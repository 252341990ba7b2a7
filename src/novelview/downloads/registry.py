"""What can be fetched, `conf/registry.yaml`, and addresses: hf://[datasets/|models/]owner/repo[/path][@revision]."""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from novelview.config.compose import conf_dir
from novelview.config.options import UniqueKeyLoader
from novelview.errors import ConfigError

LISTING = "fetched.json"  # in a complete folder: where it came from, every file's size and digest
PREFIX, SITE = "hf://", "https://huggingface.co/"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class HubAddress:
    """A place in a repository: `path` is a file or folder in it ("" is all), `revision` a branch, tag or commit."""

    repo: str
    repo_type: str = "model"
    path: str = ""
    revision: str = "main"

    def __str__(self) -> str:
        return f"{PREFIX}{self.page.removeprefix(SITE)}{'/' if self.path else ''}{self.path}@{self.revision}"

    @property
    def page(self) -> str:
        """The repository's page, for people."""
        return f"{SITE}{'' if self.repo_type == 'model' else self.repo_type + 's/'}{self.repo}"


def is_remote(path: str) -> bool:
    """Tell whether a path names something on the network."""
    return path.startswith((PREFIX, "http://", "https://"))


def parse_hub(text: str, repo_type: str) -> HubAddress:
    """Read an hf:// address; `repo_type` is what one without datasets/ or models/ means. Raises ConfigError."""
    body, _, revision = text.removeprefix(PREFIX).partition("@")
    words = [word for word in body.split("/") if word]
    if words and words[0] in ("datasets", "models"):
        repo_type, words = words[0].removesuffix("s"), words[1:]
    wrong = len(words) < 2 or not all(NAME.fullmatch(word) for word in words[:2]) or ".." in words
    if not text.startswith(PREFIX) or wrong:
        raise ConfigError(f"{text}: not an address on the hub; write hf://[datasets/]owner/repo[/folder][@revision]")
    return HubAddress("/".join(words[:2]), repo_type, "/".join(words[2:]), revision or "main")


@dataclass(frozen=True)
class Entry:
    """One published thing: a file from `url`, a `file` of a repository on the hub, or a folder of one (`files`).

    path: where it lands below the chosen folder; mirrors: further addresses, tried in turn; sha256: the digest or its
    first digits; size: bytes; about_mb: rough size in 10^6 bytes; gated: the hub asks for an account that accepted the
    terms; adopt: overrides of stage `adopt` under which a checkpoint is this project's model."""

    name: str
    purpose: str
    path: str
    licence: str
    citation: str
    url: str | None = None
    repo: str | None = None
    repo_type: str = "model"
    file: str | None = None
    files: list[str] = field(default_factory=list)
    revision: str = "main"
    mirrors: list[str] = field(default_factory=list)
    sha256: str | None = None
    size: int | None = None
    about_mb: float | None = None
    gated: bool = False
    adopt: list[str] = field(default_factory=list)

    @property
    def addresses(self) -> list[str]:
        """Every address in the order it is tried."""
        on_hub = HubAddress(self.repo or "", self.repo_type, self.file or "", self.revision)
        return [self.url or str(on_hub), *self.mirrors]

    @property
    def bytes(self) -> int | None:
        """Size in bytes, exact or rough; None when unknown."""
        return self.size or (round(self.about_mb * 1e6) if self.about_mb else None)


def read_registry(path: Path | None = None) -> dict[str, Entry]:
    """Read the registry; raises ConfigError, naming the entry, for a file that is not one."""
    source = path or conf_dir() / "registry.yaml"
    return dict(_read(source, source.stat().st_mtime_ns if source.is_file() else 0))


@functools.lru_cache(maxsize=4)
def _read(source: Path, _: int) -> dict[str, Entry]:
    try:
        content = yaml.load(source.read_bytes(), UniqueKeyLoader)
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"{source}: cannot be read ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{source}: a registry is a table of names")
    return {str(name): _entry(source, str(name), node) for name, node in content.items()}


def _entry(source: Path, name: str, node: Any) -> Entry:
    if not isinstance(node, Mapping):
        raise ConfigError(f"{source}: {name}: needs a url, or a repo and its file or files")
    if unknown := sorted(str(key) for key in node.keys() - {field.name for field in fields(Entry)}):
        raise ConfigError(f"{source}: {name}: unknown key '{unknown[0]}'")
    if not ("url" in node or ("repo" in node and ("file" in node) != ("files" in node))):
        raise ConfigError(f"{source}: {name}: needs a url, or a repo and its file or files")
    if missing := sorted({"purpose", "path", "licence", "citation"} - node.keys()):
        raise ConfigError(f"{source}: {name}: key '{missing[0]}' is missing")
    if local := [mirror for mirror in node.get("mirrors", []) if not is_remote(str(mirror))]:
        raise ConfigError(f"{source}: {name}: mirror '{local[0]}' is neither http(s):// nor hf://")
    return Entry(name=name, **{str(key): value for key, value in node.items()})


def find(registry: Mapping[str, Entry], name: str) -> Entry:
    """Return an entry; raises ConfigError naming those that exist."""
    if name not in registry:
        raise ConfigError(f"'{name}' is not in conf/registry.yaml; choose among {', '.join(registry)}")
    return registry[name]


def targets(registry: Mapping[str, Entry]) -> dict[str, str]:
    """Return the file that stands for each entry, below the chosen folder -> the entry's name."""
    return {f"{entry.path}/{LISTING}" if entry.files else entry.path: name for name, entry in registry.items()}


def needed(config: Any, registry: Mapping[str, Entry], started: bool = False) -> list[str]:
    """Return the registry's files that a training configuration cannot do without, as its keys name them.

    A loss with weight 0 needs none, nor does an image tokenizer that starts from earlier weights (`started`)."""
    losses, dino = config.train.losses, getattr(config.model, "dino", None)
    wanted = [] if started else [getattr(dino, "weights", None), getattr(config.model, "match_weights", None)]
    wanted += [losses.vgg_weights] * (losses.perceptual > 0) + [losses.lpips_weights] * (losses.lpips > 0)
    return [path for path in wanted if path in targets(registry)]


def adoption(registry: Mapping[str, Entry], name: str) -> list[str]:
    """Return the overrides of stage `adopt` that describe a checkpoint; raises ConfigError for any other entry."""
    entry = find(registry, name)
    if not entry.adopt:
        known = ", ".join(other for other, item in registry.items() if item.adopt)
        raise ConfigError(f"'{name}' is no checkpoint of a model of this project; choose among {known}")
    return entry.adopt
