"""What the figures share: one look, names and colours of models and baselines, bars and legends, byte-stable saving."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from novelview.files import replacing

MUTED = "#69747f"
LOSS = "#b3372f"
MODELS = {  # registry name, variant or baseline -> printed name and colour; without a colour: a spare one
    "uplvsm": ("UP-LVSM", "#c4512d"),
    "ptlvsm": ("PT-LVSM", "#2456b5"),
    "lvsm_decoder_only": ("LVSM decoder-only", "#7b3fa0"),
    "lvsm_encoder_decoder": ("LVSM encoder-decoder", "#1b8a8a"),
    "lvsm_efficient": ("Efficient-LVSM", "#d0609a"),
    "lvsm_efficient_prope": ("Efficient-LVSM, relative cameras", "#a8437a"),
    "lvsm_efficient_relative": ("Efficient-LVSM, matrices alone", "#e39ac2"),
    "lvsm_efficient_both": ("Efficient-LVSM, rays and matrices", "#8c2f60"),
    "lvsm_relative": ("LVSM decoder-only, matrices alone", "#b79ad0"),
    "lvsm_both": ("LVSM decoder-only, rays and matrices", "#4f2370"),
    "uplvsm_prope": ("UP-LVSM, relative cameras", "#e08a3c"),
    "uplvsm_free": ("Control with a free code", "#7f5f4f"),
    "lvsm_l6": ("LVSM decoder-only, 1/4 depth", "#c9a5dd"),
    "lvsm_l12": ("LVSM decoder-only, 1/2 depth", "#b384cd"),
    "lvsm_l18": ("LVSM decoder-only, 3/4 depth", "#9c62bb"),
    "lvsm_l24": ("LVSM decoder-only, full depth", "#8a4fb0"),
    "lvsm_one_node": ("LVSM, one node", None),
    "lvsm_two_gpus": ("LVSM, two GPUs", None),
    "lvsm_one_gpu": ("LVSM, one GPU", None),
    "lvsm_p16": ("LVSM, larger patches", None),
    "lvsm_object_decoder_only": ("LVSM decoder-only, objects", None),
    "lvsm_object_encoder_decoder": ("LVSM encoder-decoder, objects", None),
    "lact": ("LaCT", "#b06f00"),
    "lact_views": ("LaCT, many views", "#8f5a00"),
    "lact_l14_ttt2x": ("LaCT, l14 ttt2x", "#dba94a"),
    "lact_l24_ttt4x": ("LaCT, l24 ttt4x", "#7a4a00"),
    "depthsplat": ("DepthSplat", "#2f7d32"),
    "depthsplat_mv": ("DepthSplat, matching alone", "#8bb174"),
    "depthsplat_mv_pm": ("DepthSplat, matching, PM-Loss", "#3c5e2b"),
    "depthsplat_plain": ("DepthSplat, no PM-Loss", "#7d9a2f"),
    "depthsplat_pmloss": ("DepthSplat, PM-Loss", "#0f6b4f"),
    "nearest_context": ("Nearest context", "#5f6b76"),
    "mean_context": ("Mean of contexts", "#8c7a3f"),
    "mean_colour": ("Mean colour", "#a8b0b8"),
}
BASELINES = ("nearest_context", "mean_context", "mean_colour")
SWAPPED = "_swapped_pose"
SPARE_COLOURS = ("#7b3fa0", "#1b8a8a", "#b0307f", "#4f7a1f")
SPLITS = ("large", "medium", "small", "extrapolation", "full", "held_out")
STYLE = Path(__file__).with_name("templates") / "house.mplstyle"
Interval = tuple[float, float, float]  # mean, low, high


def use_style() -> None:
    """Start from matplotlib's defaults, whatever the user's own settings file says, and apply the house style."""
    plt.rcdefaults()
    matplotlib.use("Agg")
    plt.style.use(STYLE)


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write `stem`.svg and `stem`.png without dates or program versions, so equal data gives equal bytes."""
    written = [stem.with_name(stem.name + suffix) for suffix in (".svg", ".png")]
    for path, metadata in zip(written, ({"Date": None, "Creator": None}, {"Software": None}), strict=True):
        with replacing(path) as partial:
            figure.savefig(partial, dpi=200, metadata=metadata, bbox_inches="tight", pad_inches=0.08)
    plt.close(figure)
    return written


def label(model: str) -> str:
    """Return the name to print for a model or baseline: `ptlvsm` is `PT-LVSM`."""
    if model.endswith(SWAPPED):
        return f"{label(model.removesuffix(SWAPPED))}, another target's pose"
    return MODELS.get(model, (model, None))[0]


def colour(model: str) -> str:
    """Return the model's colour, the same in every figure."""
    own = MODELS.get(model.removesuffix(SWAPPED), (model, None))[1]
    return own or SPARE_COLOURS[sum(model.encode()) % len(SPARE_COLOURS)]


def draw_scores(axis: Axes, points: Iterable[tuple[float, Interval]], model: str, **look: Any) -> None:
    """Draw (place, score) as means with their intervals as bars, in the model's colour; look: keys of `errorbar`."""
    places, means, low, high = np.array([(place, *score) for place, score in points]).reshape(-1, 4).T
    spans = np.nan_to_num([means - low, high - means]).clip(0)
    axis.errorbar(places, means, spans, **{"color": colour(model), "capsize": 2, **look})


def count_ticks(axis: Axes, counts: Iterable[int], name: str, base: float = 10) -> None:
    """Give a logarithmic x axis `name` and a tick for every count."""
    places = sorted(set(counts))
    axis.set_xscale("log", base=base)
    axis.set_xticks(places, [f"{count:,}" for count in places])
    axis.minorticks_off()
    axis.set_xlabel(name)


def legend_below(figure: Figure, axes: Iterable[Axes], columns: int, first: bool = False) -> None:
    """Put one legend of all axes under the figure; of equal names the last is shown, or the first."""
    pairs = [pair for axis in axes for pair in zip(*axis.get_legend_handles_labels(), strict=True)]
    shown = {name: handle for handle, name in (reversed(pairs) if first else pairs)}
    names = list(dict.fromkeys(name for _, name in pairs))
    figure.legend([shown[name] for name in names], names, loc="outside lower center", ncols=columns)


def split_order(split: str) -> tuple[int, int, str]:
    """Sort key: overlap classes from easy to hard, extrapolation, full, then context gaps by their number."""
    if split in SPLITS:
        return 0, SPLITS.index(split), split
    number = re.search(r"\d+$", split)
    return 1, int(number.group()) if number else 10**9, split


def title_of(set_name: str) -> str:
    """Return a set's name as a heading has it: `seen set`, `held-out photographs`."""
    return {"held_out": "held-out photographs"}.get(set_name, f"{set_name} set")


def place_of(set_name: str, split: str) -> str:
    """Return a split of a set in words: `gap23, seen set`; only the set's title where the split is all of it."""
    return title_of(set_name) if split == set_name else f"{spaced(split)}, {title_of(set_name)}"


def spaced(split: str) -> str:
    """Return a split as a heading has it: `held out`."""
    return split.replace("_", " ")


def picture_grid(rows: int, titles: Sequence[str], size: tuple[float, float], **look: Any) -> tuple[Figure, np.ndarray]:
    """Return a figure of bare frames for pictures, a titled column each; look: keywords of `plt.subplots`."""
    figure, axes = plt.subplots(rows, len(titles), figsize=size, squeeze=False, **look)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
        axis.spines[:].set_visible(False)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=8, loc="center")
    return figure, axes
