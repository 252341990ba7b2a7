"""Configurations as the plan needs them: composed once for the same tree and words, afterwards read back."""

import functools
import hashlib
import sys
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from novelview.config.compose import compose, conf_dir, digest
from novelview.config.memo import recall

KIND = "\0"  # the key under which a node's class is kept; no field can be called so


def planned(stage: str, overrides: Sequence[str]) -> Any:
    """Return a stage's configuration; raises ConfigError as `compose` does."""
    key = f"compose {_tree()} {stage} {list(overrides)!r}"
    return _node(recall(key, lambda: _plain(compose(stage, overrides))))


def planned_digest(config: Any) -> str:
    """Return the digest of a stage's configuration."""
    return recall(f"digest {_tree()} {config!r}", lambda: digest(config))


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        kind = [type(value).__module__.removeprefix("novelview.config."), type(value).__name__]
        return {KIND: kind} | {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _node(kept: Any) -> Any:
    if isinstance(kept, list):
        return [_node(item) for item in kept]
    if not isinstance(kept, dict):
        return kept
    values = {key: _node(item) for key, item in kept.items()}
    module, name = values.pop(KIND, ("", ""))
    return getattr(import_module(f"novelview.config.{module}"), name)(**values) if module else values


def _tree() -> str:
    """Return a digest of all that composition reads: the configuration tree, the code of this package, versions."""
    folders = ((conf_dir(), "yaml"), (Path(__file__).parent, "py"))
    paths = [path for folder, suffix in folders for path in sorted(folder.rglob(f"*.{suffix}"))]
    return _content(tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in paths))


@functools.cache
def _content(files: tuple[tuple[Path, int, int], ...]) -> str:
    total = hashlib.sha256(f"{sys.version} {version('hydra-core')} {version('omegaconf')}".encode())
    for path, _, size in files:
        total.update(f"{path.parent.name}/{path.name} {size} ".encode() + path.read_bytes())
    return total.hexdigest()
