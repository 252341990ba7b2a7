"""Figure `depth_maps`: a context view, its true and predicted depths, and beside them the target and its renders."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from novelview.errors import DataError
from novelview.figures.gallery import Sample, finest, read_gallery, shared_samples
from novelview.figures.qualitative import any_of, spread
from novelview.figures.results import Evaluation, read_evaluations
from novelview.figures.style import MUTED, label, picture_axis, save, use_style

SIDE = 1.35  # inches of a picture
MAX_ROWS = 6
COLOURS = "viridis_r"  # near is bright

Shown = tuple[Sample | None, ...]
Range = tuple[float, float]


def depth_maps(folders: list[Path], stem: Path) -> list[Path]:
    """Draw the depth of the first context view of the kept samples, a row a sample, each row on a scale of its own.

    Raises DataError when none of the evaluated models predicts depth.
    """
    evaluations = [item for item in finest(read_evaluations(folders, "depth_maps")) if _has_depth(item)]
    if not evaluations:
        raise DataError("figure depth_maps: none of the evaluated models predicts depth; take it out of the study")
    rows = spread(shared_samples([read_gallery(item) for item in evaluations]), MAX_ROWS)
    rows = [row for row in rows if any(sample is not None and sample.depth is not None for sample in row)]
    known = any(sample is not None and sample.true_depth is not None for row in rows for sample in row)
    use_style()
    figure, axes = _grid(len(rows), 2 + known + 2 * len(evaluations))
    for line, row in zip(axes, rows, strict=True):
        _draw_row(figure, line, row, known)
    _head(axes[0], evaluations, known)
    return save(figure, stem)


def _has_depth(item: Evaluation) -> bool:
    return any(sample.depth is not None for sample in read_gallery(item))


def _grid(rows: int, columns: int) -> tuple[Figure, np.ndarray]:
    size = SIDE * columns + 0.6, (SIDE + 0.3) * rows + 0.4
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat:
        picture_axis(axis)
    return figure, axes


def _head(line: Sequence[Axes], evaluations: Sequence[Evaluation], known: bool) -> None:
    names = [f"{label(item.model)}, {item.resolution} px".replace(", ", "\n") for item in evaluations]
    depths, renders = ([f"{name}\n{what}" for name in names] for what in ("depth", "render"))
    titles = ["Context view", *(["True depth"] if known else []), *depths, "Target", *renders]
    for axis, title in zip(line, titles, strict=True):
        axis.set_title(title, fontsize=8, loc="center")


def _draw_row(figure: Figure, line: np.ndarray, row: Shown, known: bool) -> None:
    sample = any_of(row)
    limits = depth_range(row)
    picture, *others = line
    picture.imshow(sample.context[0], interpolation="nearest")
    picture.set_ylabel(f"{sample.set}, {sample.split}\n{sample.scene}", fontsize=6.5, color=MUTED)
    if known:
        truth = next((one.true_depth for one in row if one is not None and one.true_depth is not None), None)
        _draw_depth(others.pop(0), None if truth is None else truth[0], limits, "")
    for axis, one in zip(others, row, strict=False):
        depth = one.depth[0] if one is not None and one.depth is not None else None
        _draw_depth(axis, depth, limits, "" if one is None else relative_error(one))
    target, *renders = others[len(row) :]
    target.imshow(sample.target, interpolation="nearest")
    for axis, one in zip(renders, row, strict=True):
        if one is not None:
            axis.imshow(one.render, interpolation="nearest")
            axis.set_xlabel(f"{one.psnr:.2f} dB", fontsize=7, labelpad=2, color=MUTED)
    bar = figure.colorbar(ScalarMappable(Normalize(*limits), COLOURS), ax=list(line), shrink=0.8, pad=0.01)
    bar.ax.tick_params(labelsize=6)
    bar.set_label("depth", fontsize=7)


def depth_range(row: Shown) -> Range:
    """Return the depths at the ends of a row's colour scale: the true ones' where they are known."""
    given = [one for one in row if one is not None]
    maps = [one.true_depth for one in given if one.true_depth is not None][:1]
    maps = maps or [one.depth for one in given if one.depth is not None]
    values = np.concatenate([part[0].ravel() for part in maps])
    return float(values.min()), max(float(values.max()), float(values.min()) + 1e-3)


def relative_error(sample: Sample) -> str:
    """Return the mean relative error of the first context view's depth in words, nothing where it is not known."""
    if sample.depth is None or sample.true_depth is None:
        return ""
    error = np.abs(sample.depth[0] - sample.true_depth[0]) / sample.true_depth[0]
    return f"abs rel {float(error.mean()):.3f}"


def _draw_depth(axis: Axes, depth: Float[np.ndarray, "h w"] | None, limits: Range, caption: str) -> None:
    if depth is None:
        axis.text(0.5, 0.5, "none", ha="center", va="center", fontsize=7, color=MUTED, transform=axis.transAxes)
        return
    axis.imshow(depth, cmap=COLOURS, vmin=limits[0], vmax=limits[1], interpolation="nearest")
    axis.set_xlabel(caption, fontsize=7, labelpad=2, color=MUTED)
