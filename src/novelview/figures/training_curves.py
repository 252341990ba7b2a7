"""Figure `training_curves`: PSNR, loss, learning rate and gradient norm against the step, phases end to end."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from novelview.errors import DataError
from novelview.figures.curves import Curve, group_phases, read_curves
from novelview.figures.style import LOSS, MUTED, colour, label, save, use_style

PANELS = (
    ("psnr", "Training PSNR [dB]", "linear"),
    ("loss", "Training loss", "log"),
    ("lr", "Learning rate", "linear"),
    ("grad_norm", "Gradient norm before clipping", "log"),
)
LINE_STYLES = ("-", (0, (4, 1.5)), (0, (1, 1)))


def training_curves(logs: list[Path], stem: Path) -> list[Path]:
    """Draw the training logs `logs` to `stem`.svg and .png; raises DataError when there are none."""
    if not logs:
        raise DataError("figure training_curves: no training logs given; name them as io.curves=[.../train.csv]")
    use_style()
    groups = group_phases(read_curves(logs))
    figure, axes = plt.subplots(2, 2, figsize=(9.2, 5.6), sharex=True, layout="constrained")
    for axis, (column, title, scale) in zip(axes.flat, PANELS, strict=True):
        for group in groups:
            _draw_phases(axis, group, column)
        axis.set(title=title, yscale=scale)
    for axis in axes[1]:
        axis.set_xlabel("Step (phases end to end)")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(groups))
    return save(figure, stem)


def _draw_phases(axis: Axes, group: list[Curve], column: str) -> None:
    start = 0
    for phase, curve in enumerate(group):
        steps = start + curve.columns["step"]
        values = curve.columns[column]
        name = f"{label(curve.model)}, {curve.resolution} px" if curve.resolution else label(curve.model)
        style = LINE_STYLES[min(phase, len(LINE_STYLES) - 1)]
        axis.plot(steps, values, color=colour(curve.model), linestyle=style, label=name)
        if phase:
            axis.axvline(start, color=MUTED, linewidth=0.7, linestyle=":")
        if column == "grad_norm":
            _mark_skipped(axis, steps, values, curve.columns["skipped"])
        start += curve.steps


def _mark_skipped(axis: Axes, steps: np.ndarray, values: np.ndarray, skipped: np.ndarray) -> None:
    """Cross the log rows in whose steps an update was skipped, and write how many there were."""
    rows = skipped > 0
    if rows.any():
        axis.plot(steps[rows], values[rows], "x", color=LOSS, markersize=5, zorder=5)
        last = (steps[rows][-1], values[rows][-1])
        note = f"\u00d7 {int(skipped.sum())} updates skipped"
        axis.annotate(note, last, xytext=(5, 5), textcoords="offset points", fontsize=7, color=LOSS)
