"""Figure `camera_paths`: estimated against true camera centres, from above and from the side, a row a scene."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from novelview.errors import DataError
from novelview.figures.gallery import finest
from novelview.figures.results import Evaluation, read_evaluations
from novelview.figures.style import MUTED, colour, label, save, use_style
from novelview.files import read_json

MAX_SCENES = 4
VIEWS = (("from above", 0, 2), ("from the side", 2, 1))  # OpenCV axes: x right, y down, z forward


@dataclass(frozen=True)
class Path3D:
    """True and Sim(3)-aligned estimated cameras [n 4 4] of a scene, in the scene's units.

    rotation_deg, translation: mean errors; spread: root mean square distance of the true centres from their mean.
    """

    name: str
    true: Float[np.ndarray, "n 4 4"]
    estimated: Float[np.ndarray, "n 4 4"]
    rotation_deg: float
    translation: float
    spread: float


def camera_paths(folders: list[Path], stem: Path) -> list[Path]:
    """Draw the camera paths of the models that estimate poses, at their highest resolution.

    Raises DataError when none of the evaluations holds estimated poses.
    """
    given = [item for item in read_evaluations(folders, "camera_paths") if (item.folder / "poses.json").is_file()]
    evaluations = finest(given)
    rows = [(item, path) for item in evaluations for path in read_paths(item)[:MAX_SCENES]]
    if not rows:
        raise DataError("figure camera_paths: none of the evaluations estimated poses; give one of a model that does")
    use_style()
    figure, axes = plt.subplots(len(rows), 2, figsize=(8.4, 2.7 * len(rows) + 0.6), squeeze=False, layout="constrained")
    for line, (evaluation, path) in zip(axes, rows, strict=True):
        for axis, view in zip(line, VIEWS, strict=True):
            _draw(axis, path, colour(evaluation.model), view)
        line[0].set_title(f"{label(evaluation.model)}, {evaluation.resolution} px: {path.name}", fontsize=9)
        line[1].set_title(errors_of(path), fontweight="normal", fontsize=9)
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3)
    return save(figure, stem)


def errors_of(path: Path3D) -> str:
    """Return the mean errors of a path, translation beside the error of guessing the path's centre throughout."""
    rotation, translation = f"rotation {path.rotation_deg:.1f}°", f"translation {path.translation:.3f}"
    return f"{rotation}, {translation} (spread {path.spread:.3f})"


def read_paths(evaluation: Evaluation) -> list[Path3D]:
    """Read the estimated and true cameras an evaluation kept; raises DataError when they do not pair up."""
    file = evaluation.folder / "poses.json"
    try:
        return [_path(entry) for entry in read_json(file)]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file}: not a list of camera paths ({error}); run the evaluation again") from None


def _path(entry: dict[str, Any]) -> Path3D:
    true, estimated = (np.asarray(entry[name], dtype=np.float64) for name in ("true", "estimated"))
    if true.shape != estimated.shape or true.shape[1:] != (4, 4):
        raise ValueError(f"shapes {true.shape} and {estimated.shape}")
    errors = [float(np.mean(entry[name])) for name in ("rotation_deg", "translation", "spread")]
    return Path3D(f"{entry['scene']} ({entry['set']}, {entry['split']})", true, estimated, *errors)


def _draw(axis: Axes, path: Path3D, tint: str, view: tuple[str, int, int]) -> None:
    name, across, up = view
    for cameras, shade, marker, title in (
        (path.true, MUTED, "o", "true"),
        (path.estimated, tint, "^", "estimated, aligned"),
    ):
        centres = cameras[:, :3, 3]
        axis.plot(centres[:, across], centres[:, up], marker=marker, markersize=4, color=shade, label=title)
        _look(axis, cameras, across, up, shade)
    for one, other in zip(path.true, path.estimated, strict=True):
        axis.plot([one[across, 3], other[across, 3]], [one[up, 3], other[up, 3]], ":", color=MUTED, linewidth=0.7)
    axis.set(xlabel=f"{'xyz'[across]} [scene units], {name}", ylabel=f"{'xyz'[up]}")
    axis.set_aspect("equal", adjustable="datalim")
    if up == 1:
        axis.invert_yaxis()


def _look(axis: Axes, cameras: np.ndarray, across: int, up: int, shade: str) -> None:
    """Draw each camera's viewing direction as a short stroke."""
    centres = cameras[:, :3, 3]
    length = 0.12 * max(float(np.ptp(centres, axis=0).max()), 1e-6)
    ends = centres + length * cameras[:, :3, 2]
    for start, end in zip(centres, ends, strict=True):
        axis.plot([start[across], end[across]], [start[up], end[up]], color=shade, linewidth=0.9, alpha=0.7)
