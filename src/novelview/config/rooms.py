"""Ranges of the rooms' configuration that types cannot express."""

from novelview.config.sources import RoomsSource
from novelview.errors import ConfigError

LIMITS: dict[str, tuple[float, float]] = {
    "train_scenes": (1, 10**7),
    "test_seen_scenes": (0, 10**6),
    "test_new_scenes": (0, 10**6),
    "height": (8, 4096),
    "width": (8, 4096),
    "supersample": (1, 8),
    "texture_texels": (0, 512),
    "patterns": (0, 1024),
    "jpeg_quality": (1, 100),
    "targets": (1, 64),
    "chunk_bytes": (1, 2**40),
}
RANGES: dict[str, tuple[float, float]] = {
    "texture_density": (0.01, 10.0),
    "objects": (0, 64),
    "fov": (10.0, 120.0),
    "dolly": (0.0, 2.0),
    "pan": (0.0, 180.0),
    "drift": (0.0, 90.0),
}


def check_source(source: RoomsSource) -> None:
    """Raise ConfigError, one line with key, value and allowed range, for the first value that makes no rooms."""
    for name, (low, high) in LIMITS.items():
        value = getattr(source, name)
        if not low <= value <= high:
            raise ConfigError(f"source.{name}={value}: must lie in [{low:g}, {high:g}]")
    for name, (low, high) in RANGES.items():
        value = getattr(source, name)
        if len(value) != 2 or not low <= value[0] <= value[1] <= high:
            raise ConfigError(f"source.{name}={value}: must be a pair [low, high] within [{low:g}, {high:g}]")
    _check_frames(source)


def _check_frames(source: RoomsSource) -> None:
    shortest = 2 * (source.targets + 2)
    if source.frames < shortest:
        raise ConfigError(
            f"source.frames={source.frames}: too few for {source.targets} targets inside and outside a context pair; "
            f"use at least {shortest}"
        )
    if len(set(source.gaps)) < len(source.gaps):
        raise ConfigError(f"source.gaps={source.gaps}: each gap names an index, so none may stand twice")
    for gap in source.gaps:
        if not source.targets < gap < source.frames:
            raise ConfigError(
                f"source.gaps={source.gaps}: a gap must lie in [{source.targets + 1}, {source.frames - 1}] "
                f"(source.targets={source.targets}, source.frames={source.frames})"
            )
