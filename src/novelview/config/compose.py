"""Composition of a stage's configuration with Hydra: one typed dataclass, or one line that says what is wrong."""

import functools
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from novelview.config import estimation, models, options, release, schema, sources, teaching, viewing
from novelview.config.literal import literal
from novelview.config.resolution import Resolution
from novelview.config.validate import validate
from novelview.errors import ConfigError

STAGES: dict[str, type] = {
    "download": schema.DownloadStage,
    "preprocess": schema.PreprocessStage,
    "train": schema.TrainStage,
    "evaluate": schema.EvaluateStage,
    "figures": schema.FiguresStage,
    "report": schema.ReportStage,
    "adopt": release.AdoptStage,
    "compact": release.CompactStage,
    "publish": release.PublishStage,
    "render": viewing.RenderStage,
    "latency": viewing.LatencyStage,
    "depth": viewing.DepthStage,
    "poses": estimation.PosesStage,
    "pointmaps": teaching.PointmapsStage,
}
SOURCES: dict[str, type[sources.SourceConfig]] = {
    "rooms": sources.RoomsSource,
    "photos": sources.PhotosSource,
    "transforms": sources.TransformsSource,
    "colmap": sources.ColmapSource,
    "opencv_cameras": sources.OpencvCamerasSource,
    "chunks": sources.ChunksSource,
    "dl3dv": sources.Dl3dvSource,
}
MODELS: dict[str, type[models.ModelConfig]] = {
    "uplvsm": models.UPLVSMConfig,
    "ptlvsm": models.PTLVSMConfig,
    "lvsm_decoder_only": models.LVSMDecoderOnlyConfig,
    "lvsm_encoder_decoder": models.LVSMEncoderDecoderConfig,
    "lact": models.LaCTConfig,
    "depthsplat": models.DepthSplatConfig,
}
ESTIMATORS: dict[str, type[estimation.EstimatorConfig]] = {
    "given": estimation.GivenEstimator,
    "colmap": estimation.ColmapEstimator,
    "vggt": estimation.VggtEstimator,
}
RUN_ONLY = ("runtime", "io")


def conf_dir() -> Path:
    """Return the Hydra tree: `NOVELVIEW_CONF` where set, else the checkout's `conf`, else the one inside the wheel.

    Raises ConfigError when there is none.
    """
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
    store.store(group="camera_path", name="camera_path_schema", node=viewing.PathConfig)
    for name, node in SOURCES.items():
        store.store(group="source", name=f"{name}_schema", node=node)
    for name, node in ESTIMATORS.items():
        store.store(group="poses", name=name, node=node)
    for name, node in MODELS.items():
        store.store(group="model", name=name, node=node)


def compose(stage: str, overrides: Sequence[str] = ()) -> Any:
    """Compose and type-check the configuration of `stage`; return its dataclass (`STAGES[stage]`).

    Raises ConfigError, one line, for an unknown stage, group option, key, type or value.
    """
    if stage not in STAGES:
        raise ConfigError(f"stage '{stage}' does not exist; choose one of {', '.join(STAGES)}")
    _register()
    options.register(conf_dir())
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            node = hydra_compose(f"stage/{stage}", overrides=[literal(word) for word in overrides])
        typed = _typed(node)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"stage {stage}: {_one_line(error, overrides)}") from None
    validate(typed)
    return typed


def _typed(node: DictConfig) -> Any:
    missing = _missing(OmegaConf.to_container(node))
    if missing:
        raise ConfigError(f"configuration key '{missing[0]}' has no value; give it as {missing[0]}=...")
    OmegaConf.resolve(node)
    return OmegaConf.to_object(node)


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


def resolved(config: Any) -> dict[str, Any]:
    """Return a stage's configuration as plain data without the run-only nodes (`runtime`, `io`)."""
    container = OmegaConf.to_container(OmegaConf.structured(config), resolve=True, enum_to_str=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items() if key not in RUN_ONLY}


def digest(config: Any) -> str:
    """Return 12 hex digits that change exactly when a result-bearing value of the configuration changes."""
    return digest_of(resolved(config))


def digest_of(values: dict[str, Any]) -> str:
    """Return the digest of a configuration that `resolved` made plain, such as the one in a weights file's header."""
    text = OmegaConf.to_yaml(OmegaConf.create(values), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
