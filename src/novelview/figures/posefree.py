"""Figure `posefree`: PSNR by overlap class on given and estimated cameras, and what a target loses by its camera."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from novelview.errors import DataError
from novelview.figures.posefree_rows import (
    GIVEN,
    NAMES,
    Judgement,
    common,
    difference,
    given_of,
    judgements,
    places,
    score,
)
from novelview.figures.style import MUTED, colour, label, save, title_of, use_style
from novelview.files import read_json

MARKERS = {"given": "o", "colmap": "^", "vggt": "D"}
ERRORS = {"rotation_deg": "Rotation error after Sim(3) [°]", "translation": "Centre's error / spread of the path"}
SMALLEST = {"rotation_deg": 1e-2, "translation": 1e-3}  # where the logarithmic axes begin: smaller is no error


def posefree(folders: list[Path], stem: Path, records: list[Path]) -> list[Path]:
    """Draw PSNR by overlap class, a panel a set, and beside it each target's loss against its camera's error.

    records: poses.json of the data sets under estimated cameras. Raises DataError when nothing was evaluated.
    """
    found = judgements(folders)
    sets = places(found)
    if not sets:
        raise DataError(f"{folders[0]}: no split was evaluated; run the evaluation again")
    known = {content["estimator"]: content["scenes"] for content in map(read_json, records)}
    panels = len(sets) + (len(ERRORS) if known else 0)
    use_style()
    figure, axes = plt.subplots(1, panels, figsize=(3.4 * panels, 3.4), squeeze=False, layout="constrained")
    for axis, (name, splits) in zip(axes[0], sets, strict=False):
        _classes(axis, found, name, splits)
    for axis, error in zip(axes[0, len(sets) :], ERRORS, strict=False):
        _losses(axis, found, sets, known, error)
    axes[0, 0].set_ylabel("PSNR [dB]")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3)
    return save(figure, stem)


def _classes(axis: Axes, found: Sequence[Judgement], name: str, splits: list[str]) -> None:
    for one, offset in zip(found, np.linspace(-0.25, 0.25, len(found)), strict=True):
        shared = [(place, common(found, (name, split)), split) for place, split in enumerate(splits)]
        scores = [
            (place + offset, score(one, (name, split), targets))
            for place, targets, split in shared
            if targets and one.rows.get((name, split))
        ]
        axis.errorbar(
            [place for place, _ in scores],
            [value.mean for _, value in scores],
            [[value.mean - value.low for _, value in scores], [value.high - value.mean for _, value in scores]],
            linestyle="none",
            color=colour(one.evaluation.model),
            marker=MARKERS.get(one.evaluation.cameras, "s"),
            markerfacecolor=colour(one.evaluation.model) if one.evaluation.cameras == GIVEN else "white",
            markersize=5,
            capsize=2,
            label=_name(one),
        )
    axis.set_xticks(range(len(splits)), [split.replace("_", " ") for split in splits])
    axis.set_xlabel("Overlap of the context views")
    axis.set_title(title_of(name).capitalize())


def _name(one: Judgement) -> str:
    item = one.evaluation
    cameras = f"{NAMES.get(item.cameras, item.cameras)} cameras" if one.posed else "no cameras needed"
    return f"{label(item.model)}, {item.resolution} px, {cameras}"


def _losses(
    axis: Axes,
    found: Sequence[Judgement],
    sets: Sequence[tuple[str, list[str]]],
    known: dict[str, dict],
    error: str,
) -> None:
    for one in (item for item in found if item.posed and item.evaluation.cameras in known):
        scenes = known[one.evaluation.cameras]
        points = [
            (max(_error(scenes[scene], frame, error), SMALLEST[error]), value)
            for name, splits in sets
            for split in splits
            for (scene, _, frame), value in difference(one, given_of(found, one), (name, split))[1]
        ]
        style = {"color": colour(one.evaluation.model), "marker": MARKERS.get(one.evaluation.cameras, "s")}
        axis.scatter(*np.array(points).reshape(-1, 2).T, s=9, alpha=0.5, linewidths=0, **style)
    axis.axhline(0, color=MUTED, linewidth=0.8)
    axis.set_xscale("log")
    axis.set_xlabel(ERRORS[error])
    axis.set_title("Estimated minus given [dB]")


def _error(scene: dict, frame: int, error: str) -> float:
    value = scene[error][scene["placed"].index(frame)]
    return value / scene["spread"] if error == "translation" and scene["spread"] > 0 else value
