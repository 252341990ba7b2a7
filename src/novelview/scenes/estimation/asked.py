"""Which frames of a scene the estimator is given."""

from collections.abc import Iterable, Mapping, Sequence

from novelview.config.sources import EstimatorConfig
from novelview.scenes.chunks import ChunkScene
from novelview.scenes.pack_part import inspect
from novelview.scenes.views import EvalEntry


def named_frames(indices: Mapping[str, Sequence[EvalEntry]]) -> dict[str, set[int]]:
    """Return scene -> every frame that an evaluation entry names as context or target."""
    found: dict[str, set[int]] = {}
    for entries in indices.values():
        for entry in entries:
            found.setdefault(entry.scene, set()).update(entry.context, entry.target)
    return found


def asked_frames(scene: ChunkScene, named: set[int] | None, cfg: EstimatorConfig) -> list[int]:
    """Return the frames to place together, ascending, damaged pictures left out.

    named: those that evaluation entries name, None for a training scene, of which all are wanted. frames=entries: the
    named ones alone. More than `max_frames` are thinned evenly, but never the named ones: a target without a camera
    could not be judged.
    """
    if cfg.frames == "entries" and named is not None:
        return _sound(scene, sorted(named))
    sound = _sound(scene, range(len(scene.images)))
    if not cfg.max_frames or len(sound) <= cfg.max_frames:
        return sound
    wanted = [frame for frame in sound if frame in (named or ())]
    others = [frame for frame in sound if frame not in (named or ())]
    room = max(0, cfg.max_frames - len(wanted))
    kept = {others[int((turn + 0.5) * len(others) / room)] for turn in range(min(room, len(others)))}
    return sorted({*wanted, *kept})


def _sound(scene: ChunkScene, frames: Iterable[int]) -> list[int]:
    """Return the frames that are there and can be decoded."""
    here = (frame for frame in frames if frame < len(scene.images))
    return [frame for frame in here if not inspect(scene.images[frame].numpy().tobytes())[1]]
