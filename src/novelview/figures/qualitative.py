"""Figure `qualitative`: context views, target, nearest-context copy, and each model's render with its error map."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec

from novelview.errors import DataError
from novelview.figures.gallery import Picture, Sample, error_map, finest, read_gallery, shared_samples
from novelview.figures.results import read_evaluations
from novelview.figures.style import MUTED, label, picture_axis, save, use_style

SIDE = 1.15  # inches of a picture
MAX_ROWS = 10
ERROR_LIMIT = 0.5  # absolute error at the bright end of the colour scale
ERROR_MAP = "inferno"


def qualitative(folders: list[Path], stem: Path) -> list[Path]:
    """Draw the picture grid of the evaluations in `folders`, each model at its highest resolution.

    Raises DataError when an evaluation kept no pictures.
    """
    evaluations = finest(read_evaluations(folders, "qualitative"))
    rows = spread(shared_samples([read_gallery(evaluation) for evaluation in evaluations]), MAX_ROWS)
    if not rows:
        raise DataError(f"{folders[0]}: its gallery is empty; run the evaluation with eval.gallery above 0")
    use_style()
    names = [f"{label(evaluation.model)}, {evaluation.resolution} px" for evaluation in evaluations]
    figure, axes = _grid(len(rows), 4 + 2 * len(evaluations))
    for line, row in zip(axes, rows, strict=True):
        _draw_row(line, row)
    _head(axes[0], names)
    _error_scale(figure, axes[-1])
    return save(figure, stem)


def spread(rows: list[tuple[Sample | None, ...]], count: int) -> list[tuple[Sample | None, ...]]:
    """Keep at most `count` rows, each set and split in turn, so that none is crowded out."""
    groups: dict[tuple[str, str], list[tuple[Sample | None, ...]]] = {}
    for row in rows:
        groups.setdefault(any_of(row).key[:2], []).append(row)
    turns = [row for turn in range(len(rows)) for group in groups.values() for row in group[turn : turn + 1]]
    kept = [id(row) for row in turns[:count]]
    return [row for row in rows if id(row) in kept]


def any_of(row: tuple[Sample | None, ...]) -> Sample:
    """Return a sample of the row: contexts and target are the same in all of them."""
    return next(sample for sample in row if sample is not None)


def _grid(rows: int, columns: int) -> tuple[Figure, list[list[Axes]]]:
    figure = plt.figure(figsize=(SIDE * columns * 1.05, (SIDE + 0.22) * rows + 0.7))
    spec = GridSpec(rows, columns, figure, wspace=0.05, hspace=0.22)
    axes = [[figure.add_subplot(spec[row, column]) for column in range(columns)] for row in range(rows)]
    for axis in (axis for line in axes for axis in line):
        picture_axis(axis)
    return figure, axes


def _head(line: list[Axes], names: list[str]) -> None:
    titles = [
        "First, context",
        "Last, context",
        "Target",
        "Nearest, context",
        *(part for name in names for part in (name, "Error")),
    ]
    for axis, title in zip(line, titles, strict=True):
        axis.set_title(title.replace(", ", "\n"), fontsize=8, loc="center")


def _draw_row(line: list[Axes], row: tuple[Sample | None, ...]) -> None:
    sample = any_of(row)
    for axis, picture in zip(line, (sample.context[0], sample.context[-1], sample.target), strict=False):
        _show(axis, picture)
    line[0].set_ylabel(f"{sample.set}, {sample.split}\n{sample.scene}", fontsize=6.5, color=MUTED)
    _show(line[3], sample.nearest, f"{sample.psnr_nearest:.2f} dB")
    for number, own in enumerate(row):
        _draw_render(line[4 + 2 * number], line[5 + 2 * number], own)


def _draw_render(left: Axes, right: Axes, sample: Sample | None) -> None:
    if sample is None:
        for axis in (left, right):
            axis.text(0.5, 0.5, "not kept", ha="center", va="center", fontsize=7, color=MUTED, transform=axis.transAxes)
        return
    _show(left, sample.render, f"{sample.psnr:.2f} dB")
    error = error_map(sample.render, sample.target)
    right.imshow(error, cmap=ERROR_MAP, vmin=0.0, vmax=ERROR_LIMIT, interpolation="nearest")
    right.set_xlabel(f"mean {float(np.mean(error)):.3f}", fontsize=7, labelpad=2, color=MUTED)


def _show(axis: Axes, picture: Picture, caption: str = "") -> None:
    axis.imshow(picture, interpolation="nearest")
    axis.set_xlabel(caption, fontsize=7, labelpad=2, color=MUTED)


def _error_scale(figure: Figure, line: list[Axes]) -> None:
    """Draw the error maps' shared colour scale under the grid."""
    box = line[-1].get_position()
    width = line[4].get_position().x0
    height = 0.1 / figure.get_figheight()
    area = figure.add_axes((width, box.y0 - 0.42 / figure.get_figheight(), box.x1 - width, height))
    mappable = ScalarMappable(Normalize(0.0, ERROR_LIMIT), ERROR_MAP)
    bar = figure.colorbar(mappable, cax=area, orientation="horizontal")
    bar.set_label("Absolute error, mean over colour channels (pictures in [0, 1])", fontsize=7)
    bar.ax.tick_params(labelsize=7)
