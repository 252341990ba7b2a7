"""Checkpoints released with the project, `released/{name}/`: which are there, and whether they are what they say."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from novelview.config.header import dtypes, model_config, read_config
from novelview.errors import ConfigError, NovelviewError
from novelview.files import sha256

FOLDER = "released"  # in the working directory, as data/ and results/ are
WEIGHTS = "model.safetensors"
CARD = "README.md"
LIMIT = 16_000_000  # bytes of a released file, so that git and its hosts take it
NAME = re.compile(r"[a-z0-9_]+")


@dataclass(frozen=True)
class Released:
    """One released checkpoint; config: the resolved training configuration in its header; sha256: of its file."""

    name: str
    weights: str
    config: dict[str, Any]
    sha256: str

    @property
    def model(self) -> str:
        """Registry name of its model."""
        return str(self.config["model"]["name"])


def require_name(name: str, key: str) -> None:
    """Raise ConfigError unless `name` can be a folder of released/."""
    if not NAME.fullmatch(name):
        raise ConfigError(f"{key}={name}: a released checkpoint is named with small letters, digits and _")


def read_released(folder: Path | str = FOLDER) -> list[Released]:
    """Return the checkpoints in `folder` by name, each checked; an empty folder, which a killed call leaves, is none.

    Raises ConfigError, one line with what to do, for a folder without weights or card, and for weights that are
    damaged, too large, not bfloat16, of no model known here, without a header of ours, or not those of their card.
    """
    return [read_one(path) for path in sorted(Path(folder).glob("[!.]*")) if path.is_dir() and any(path.iterdir())]


def read_one(folder: Path) -> Released:
    """Return the checkpoint in a folder of released/; raises ConfigError as `read_released` does."""
    weights = folder / WEIGHTS
    try:
        require_name(folder.name, str(folder.parent))
        problem = next(_problems(folder), None)
        if problem:
            raise ConfigError(f"{weights}: {problem}")
        return Released(folder.name, str(weights), read_config(weights), sha256(weights))
    except (NovelviewError, OSError) as error:
        cure = f"`git checkout {folder}` brings back what was committed, or remove the folder (docs/publishing.md)"
        raise ConfigError(f"{error}; {cure}") from None


def _problems(folder: Path) -> Iterator[str]:
    """Yield what is wrong, cheap things first; raises CheckpointError for a header that is not ours or of no model."""
    weights, card = folder / WEIGHTS, folder / CARD
    if not weights.is_file():
        yield "missing"
    size = weights.stat().st_size
    if size > LIMIT:
        yield f"has {size / 1e6:.1f} MB, and a released file at most {LIMIT / 1e6:.0f}"
    config = read_config(weights)
    model_config(weights, config["model"])
    missing = [key for key in ("views", "train", "phase", "dataset") if not config.get(key)]
    if missing:
        yield f"its header does not say '{missing[0]}'"
    if not _told(config):
        yield "its header does not say how it was trained"
    others = dtypes(weights) & {"F32", "F64", "F16"}
    if others:
        yield f"holds numbers of kind {min(others)}; stage compact rounds weights to bfloat16"
    if not card.is_file():
        yield f"has no model card {CARD} beside it"
    if sha256(weights) not in card.read_text("utf-8", "replace"):
        yield f"{CARD} beside it is of other weights (its SHA-256 is not there): damaged, or replaced without its card"


def _told(config: dict[str, Any]) -> bool:
    """Tell whether a header's `released` names what the report and the card print of every phase."""
    try:
        phases = config.get("released", {"phases": [{**config["train"], "size": ""}]})["phases"]
        return all(int(one["steps"]) * one["batch_size"] * one["grad_accum"] and "size" in one for one in phases)
    except (KeyError, TypeError, ValueError):
        return False
