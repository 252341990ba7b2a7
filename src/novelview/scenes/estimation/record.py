"""The quality record poses.json: what became of every scene, and of the evaluation entries that need its frames."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from novelview.scenes.views import EvalEntry

MEANS = ("rotation_deg", "relative_rotation_deg")


def covered(indices: Mapping[str, Sequence[EvalEntry]], placed: Mapping[str, set[int]]) -> dict[str, dict[str, int]]:
    """Return split -> how many entries its index has, and of how many every frame has a camera."""
    return {
        split: {"index": len(entries), "kept": sum(whole(entry, placed) for entry in entries)}
        for split, entries in indices.items()
    }


def whole(entry: EvalEntry, placed: Mapping[str, set[int]]) -> bool:
    """Whether every frame of an entry has a camera."""
    return {*entry.context, *entry.target} <= placed.get(entry.scene, set())


def summary(scenes: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """Return counts over all scenes, means over placed frames, and how often each reason of a failure occurred."""
    sound = [scene for scene in scenes.values() if scene["failure"] is None]
    reasons = Counter(str(scene["failure"]) for scene in scenes.values() if scene["failure"] is not None)
    found: dict[str, Any] = {
        "scenes": len(scenes),
        "placed_scenes": len(sound),
        "asked_frames": sum(scene["asked"] for scene in scenes.values()),
        "placed_frames": sum(len(scene["placed"]) for scene in sound),
        "seconds": round(sum(scene["seconds"] for scene in scenes.values()), 1),
        "failures": dict(reasons.most_common()),
    }
    known = [scene for scene in sound if "rotation_deg" in scene]
    for name in MEANS:
        found[name] = _mean([value for scene in known for value in scene[name]])
    found["translation_over_spread"] = _mean(
        [value / scene["spread"] for scene in known if scene["spread"] > 0 for value in scene["translation"]]
    )
    found["reprojection_px"] = _mean([scene["reprojection_px"] for scene in sound if "reprojection_px" in scene])
    return found


def _mean(values: Sequence[float]) -> float | None:
    return round(fmean(values), 4) if values else None
