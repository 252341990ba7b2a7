"""Figure `attention`: patches of context view 0 and where in context view 1 the encoder's attention from them goes."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from novelview.errors import DataError
from novelview.figures.attention_overlay import overlay
from novelview.figures.gallery import Picture, Sample, finest, read_gallery
from novelview.figures.results import Evaluation, read_evaluations
from novelview.figures.style import MUTED, label, picture_axis, save, use_style

MAX_SCENES = 4
PLACES = ((0.3, 0.3), (0.3, 0.7), (0.7, 0.5))  # marked patches, (down, across) as shares of the picture


def attention(folders: list[Path], stem: Path) -> list[Path]:
    """Draw attention maps (specs/uplvsm.md section 11) of the models that keep them, at their highest resolution.

    Raises DataError when no gallery holds attention.
    """
    evaluations = finest(read_evaluations(folders, "attention"))
    rows = [(item, sample) for item in evaluations for sample in attended(item)]
    if not rows:
        raise DataError(
            "figure attention: no gallery holds attention maps; give the evaluation of a model that has them"
        )
    use_style()
    columns = 1 + 2 * len(PLACES)
    figure, axes = plt.subplots(len(rows), columns, figsize=(1.35 * columns, 1.35 * len(rows) + 0.4), squeeze=False)
    figure.subplots_adjust(wspace=0.05, hspace=0.08)
    for line, (evaluation, sample) in zip(axes, rows, strict=True):
        _draw_row(line, sample)
        caption = f"{label(evaluation.model)}, {evaluation.resolution} px\n{sample.set}, {sample.scene}"
        line[0].set_ylabel(caption, fontsize=6.5, color=MUTED)
    for axis, title in zip(axes[0], ["Context 2", *("Patch", "Attention") * len(PLACES)], strict=True):
        axis.set_title(title, fontsize=8, loc="center")
    return save(figure, stem)


def _draw_row(line: Sequence[Axes], sample: Sample) -> None:
    pictures = [sample.context[-1], *(picture for place in PLACES for picture in overlays(sample, place))]
    for axis, picture in zip(line, pictures, strict=True):
        axis.imshow(picture, interpolation="nearest")
        picture_axis(axis)


def attended(evaluation: Evaluation) -> list[Sample]:
    """Return the first sample of each scene that has attention, at most `MAX_SCENES`."""
    scenes: dict[str, Sample] = {}
    for sample in read_gallery(evaluation):
        if sample.attention is not None:
            scenes.setdefault(sample.scene, sample)
    return list(scenes.values())[:MAX_SCENES]


def overlays(sample: Sample, place: tuple[float, float]) -> tuple[Picture, Picture]:
    """Return context view 0 with the patch at `place` in red, and view 1 under the colours of its attention."""
    weights = sample.attention
    assert weights is not None
    height, width = sample.context[0].shape[:2]
    count = len(weights)
    size = round((height * width / count) ** 0.5)
    down, across = (int(share * side / size) for share, side in zip(place, (height, width), strict=True))
    whole = np.zeros((2 * count, 2 * count), dtype=np.float32)  # the gallery keeps the block from view 0 to view 1 only
    whole[:count, count:] = weights
    return overlay(whole, sample.context[0], sample.context[-1], down * (width // size) + across, size)
