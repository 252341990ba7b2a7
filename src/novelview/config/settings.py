"""What `snakemake --config` takes: the keys, and the overrides of `set=...` sorted by the stages that own them."""

import shlex
from collections.abc import Mapping
from typing import Any

from novelview.errors import ConfigError

OWNERS = {
    "source": ("download",),
    "pack": ("preprocess",),
    "model": ("train",),
    "views": ("train",),
    "train": ("train",),
    "eval": ("evaluate",),
    "poses": ("poses",),
    "align": ("poses",),
    "runtime": (),  # travels beside the rules' params: it never reruns anything
}
ALONE = ("align",)  # keys that lie under none
KEYS = ("study", "scale", "source", "path", "name", "init", "set", "publish", "licence")


def check_keys(config: Mapping[str, Any]) -> None:
    """Raise ConfigError for a key of `--config` that the workflow does not take."""
    unknown = sorted(set(config) - set(KEYS))
    if unknown:
        raise ConfigError(f"--config {unknown[0]}=...: unknown; the workflow takes {', '.join(KEYS)}")


def assign(given: Any) -> tuple[dict[str, list[str]], list[str]]:
    """Sort `--config set="a.b=1 c.d=2"` into the stages that own each key, and those under `runtime`.

    Raises ConfigError for an open quote and for a key that no stage owns.
    """
    assigned: dict[str, list[str]] = {}
    words = split_words(given, "set")
    for word in words:
        name, sign, _ = word.lstrip("+").partition("=")
        owner = name.partition(".")[0]
        if owner not in OWNERS or not sign or (owner == name and name not in ALONE):
            raise ConfigError(f"--config set: '{word}' is not key=value with a key under {', '.join(OWNERS)}")
        for stage in OWNERS[owner]:
            assigned.setdefault(stage, []).append(word)
    return assigned, [word for word in words if word.startswith("runtime.")]


def split_words(given: Any, key: str) -> list[str]:
    """Return the words of a `--config` value, quoted as in a shell; raises ConfigError for an open quote."""
    try:
        return [str(word) for word in (given if isinstance(given, list) else shlex.split(str(given or "")))]
    except ValueError:
        raise ConfigError(f"--config {key}: a quote in {given} is not closed; quote each value as a whole") from None
