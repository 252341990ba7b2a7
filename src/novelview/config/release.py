"""Configuration nodes of what comes in from elsewhere and what goes out: stages `adopt`, `compact` and `publish`."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from novelview.config.schema import RuntimeConfig, TrainStage


@dataclass
class AdoptStage(TrainStage):
    """Stage `adopt`: a published checkpoint to this project's weights, described like a training of our own."""

    dataset: str = "unknown"  # what the checkpoint was trained on
    subset: str = "published"
    name: str | None = None  # entry of conf/registry.yaml, fetched where it is not there yet
    file: str | None = None  # or a checkpoint of one's own


@dataclass
class CompactStage:
    """Stage `compact`: weights rounded to bfloat16, at most 16 MB: what is released. `io.before`: earlier phases'."""

    name: str = MISSING  # what they are released as, a folder of released/
    io: dict[str, Any] = field(default_factory=dict)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)


@dataclass
class PublishStage:
    """Stage `publish`: weights, configuration and model card as a folder, and to the hub where `repo` is named."""

    repo: str | None = None  # owner/name on the Hugging Face hub; null only writes the folder
    private: bool = False
    licence: str = (
        "other"  # a licence identifier of the hub; the weights' own terms, data and starting point considered
    )
    io: dict[str, Any] = field(default_factory=dict)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
