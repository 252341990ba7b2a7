"""Figure `views`: quality and cost against the number of context views: PSNR, reconstruction, rendering."""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from novelview.config.schema import Resolution
from novelview.errors import DataError
from novelview.figures.results import Evaluation, Score, read_evaluations, sections
from novelview.figures.style import colour, label, save, title_of, use_style

COUNTED = re.compile(r"(?:random|uniform|kmeans)(\d+)")
LINES = ("-", "--", ":", "-.")
BASELINE = "nearest_context"
COSTS = (("reconstruct_s", "Reconstruction [ms]"), ("render_s", "Rendering, each view [ms]"))


@dataclass(frozen=True)
class Cost:
    """Seconds to reconstruct a scene from `views` context views and to render one view of it."""

    model: str
    resolution: Resolution
    views: int
    reconstruct_s: float
    render_s: float


def views(folders: list[Path], stem: Path, extras: list[Path]) -> list[Path]:
    """Draw PSNR against the number of context views, a panel a set, and beside it what a scene and a view cost.

    extras: the CSV of stage `latency`, if it was run. Raises DataError when no evaluation chose views by number.
    """
    evaluations = read_evaluations(folders, "views")
    sets = [name for name, splits in sections(evaluations) if any(COUNTED.fullmatch(split) for split in splits)]
    if not sets:
        raise DataError("figure views: no split counts its context views; evaluate with eval.context_counts=[2,4,8]")
    costs = [row for path in extras if path.suffix == ".csv" for row in read_costs(path)]
    use_style()
    panels = len(sets) + (len(COSTS) if costs else 0)
    figure, axes = plt.subplots(1, panels, figsize=(3.3 * panels, 3.2), squeeze=False, layout="constrained")
    sizes = sorted({item.resolution for item in evaluations} | {row.resolution for row in costs})
    for axis, name in zip(axes[0], sets, strict=False):
        _draw_quality(axis, evaluations, name, sizes)
    for axis, (column, title) in zip(axes[0, len(sets) :], COSTS, strict=False):
        _draw_cost(axis, costs, column, title, sizes)
    entries = {name: handle for axis in axes[0] for handle, name in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(list(entries.values()), list(entries), loc="outside lower center", ncols=2)
    return save(figure, stem)


def read_costs(path: Path) -> list[Cost]:
    """Read the CSV of stage `latency`; raises DataError for another file."""
    try:
        with open(path, newline="") as stream:
            return [_cost(row) for row in csv.DictReader(stream)]
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; run the latency stage first") from None
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path}: not a table of the latency stage ({error}); run it again") from None


def _cost(row: dict[str, str]) -> Cost:
    size = Resolution.parse(row["resolution"])
    return Cost(row["model"], size, int(row["views"]), float(row["reconstruct_s"]), float(row["render_s"]))


def _draw_quality(axis: Axes, evaluations: Sequence[Evaluation], name: str, sizes: Sequence[Resolution]) -> None:
    for item in evaluations:
        for model in (item.model, BASELINE):
            own = _scores(item, model, name)
            means = [score.mean for _, score in own]
            axis.errorbar(
                [count for count, _ in own],
                means,
                [[score.mean - score.low for _, score in own], [score.high - score.mean for _, score in own]],
                linestyle=LINES[sizes.index(item.resolution) % len(LINES)],
                color=colour(model),
                marker="o",
                markersize=4,
                capsize=2,
                label=f"{label(model)}, {item.resolution} px",
            )
    _counts(axis, [count for item in evaluations for count, _ in _scores(item, item.model, name)])
    axis.set_title(title_of(name).capitalize())
    axis.set_ylabel("PSNR [dB]")


def _scores(item: Evaluation, model: str, name: str) -> list[tuple[int, Score]]:
    """Return (number of context views, PSNR) of a model on a set, fewest views first."""
    own = [group for group in item.groups if (group.model, group.set) == (model, name)]
    counted = [(COUNTED.fullmatch(group.split), group.scores["psnr"]) for group in own]
    return sorted(((int(found[1]), score) for found, score in counted if found), key=lambda pair: pair[0])


def _draw_cost(axis: Axes, costs: Sequence[Cost], column: str, title: str, sizes: Sequence[Resolution]) -> None:
    for model, size in dict.fromkeys((row.model, row.resolution) for row in costs):
        own = sorted((row for row in costs if (row.model, row.resolution) == (model, size)), key=lambda row: row.views)
        axis.plot(
            [row.views for row in own],
            [1000 * getattr(row, column) for row in own],
            linestyle=LINES[sizes.index(size) % len(LINES)],
            color=colour(model),
            marker="o",
            markersize=4,
            label=f"{label(model)}, {size} px",
        )
    _counts(axis, [row.views for row in costs])
    axis.set_title(title)
    axis.set_ylim(bottom=0)


def _counts(axis: Axes, found: Sequence[int]) -> None:
    counts = sorted(set(found))
    axis.set_xscale("log", base=2)
    axis.set_xticks(counts, [str(count) for count in counts])
    axis.minorticks_off()
    axis.set_xlabel("Context views")
