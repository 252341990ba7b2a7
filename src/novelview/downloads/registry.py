"""The table of what can be fetched, `conf/registry.yaml`."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from novelview.config.compose import conf_dir
from novelview.errors import ConfigError


@dataclass(frozen=True)
class Entry:
    """One published file: from `url`, or from `repo` and `file` on the Hugging Face hub.

    path: where it lands below the chosen folder; sha256: the digest or its first digits; size: bytes; about_mb: rough
    size in 10^6 bytes.
    """

    name: str
    purpose: str
    path: str
    licence: str
    citation: str
    url: str | None = None
    repo: str | None = None
    file: str | None = None
    revision: str = "main"
    sha256: str | None = None
    size: int | None = None
    about_mb: float | None = None

    @property
    def origin(self) -> str:
        """Where the file comes from, for people."""
        return self.url or f"Hugging Face {self.repo}, {self.file} at {self.revision}"

    @property
    def bytes(self) -> int | None:
        """Size in bytes, exact or rough; None when unknown."""
        return self.size or (round(self.about_mb * 1e6) if self.about_mb else None)


def read_registry(path: Path | None = None) -> dict[str, Entry]:
    """Read the registry; raises ConfigError, naming the entry, for a file that is not one."""
    source = path or conf_dir() / "registry.yaml"
    try:
        content = OmegaConf.to_container(OmegaConf.load(source))
    except (OSError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{source}: cannot be read ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{source}: a registry is a table of names")
    return {str(name): _entry(source, str(name), node) for name, node in content.items()}


def _entry(source: Path, name: str, node: Any) -> Entry:
    if not isinstance(node, Mapping) or not ("url" in node or {"repo", "file"} <= node.keys()):
        raise ConfigError(f"{source}: {name}: needs a url, or a repo and a file")
    known = {field.name for field in fields(Entry)}
    unknown = sorted(str(key) for key in node.keys() - known)
    if unknown:
        raise ConfigError(f"{source}: {name}: unknown key '{unknown[0]}'")
    missing = sorted({"purpose", "path", "licence", "citation"} - node.keys())
    if missing:
        raise ConfigError(f"{source}: {name}: key '{missing[0]}' is missing")
    return Entry(name=name, **{str(key): value for key, value in node.items()})


def find(registry: Mapping[str, Entry], name: str) -> Entry:
    """Return an entry; raises ConfigError naming those that exist."""
    if name not in registry:
        raise ConfigError(f"'{name}' is not in conf/registry.yaml; choose among {', '.join(registry)}")
    return registry[name]
