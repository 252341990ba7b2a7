"""What the figures share: one look, names and colours of models and baselines, and byte-stable saving."""

import re
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from novelview.files import replacing

INK = "#1f2933"
MUTED = "#69747f"
GAIN = "#1a7f4b"
LOSS = "#b3372f"
LABELS = {
    "uplvsm": "UP-LVSM",
    "ptlvsm": "PT-LVSM",
    "lvsm_decoder_only": "LVSM decoder-only",
    "lvsm_encoder_decoder": "LVSM encoder-decoder",
    "lvsm_l6": "LVSM decoder-only, 1/4 depth",
    "lvsm_l12": "LVSM decoder-only, 1/2 depth",
    "lvsm_l18": "LVSM decoder-only, 3/4 depth",
    "lvsm_l24": "LVSM decoder-only, full depth",
    "lvsm_one_node": "LVSM, one node",
    "lvsm_two_gpus": "LVSM, two GPUs",
    "lvsm_one_gpu": "LVSM, one GPU",
    "lvsm_p16": "LVSM, larger patches",
    "lvsm_object_decoder_only": "LVSM decoder-only, objects",
    "lvsm_object_encoder_decoder": "LVSM encoder-decoder, objects",
    "lact": "LaCT",
    "lact_views": "LaCT, many views",
    "lact_l14_ttt2x": "LaCT, l14 ttt2x",
    "lact_l24_ttt4x": "LaCT, l24 ttt4x",
    "depthsplat": "DepthSplat",
    "depthsplat_mv": "DepthSplat, matching alone",
    "depthsplat_mv_pm": "DepthSplat, matching, PM-Loss",
    "depthsplat_plain": "DepthSplat, no PM-Loss",
    "depthsplat_pmloss": "DepthSplat, PM-Loss",
    "nearest_context": "Nearest context",
    "mean_context": "Mean of contexts",
    "mean_colour": "Mean colour",
}
BASELINES = ("nearest_context", "mean_context", "mean_colour")
SWAPPED = "_swapped_pose"
COLOURS = {
    "uplvsm": "#c4512d",
    "ptlvsm": "#2456b5",
    "lvsm_decoder_only": "#7b3fa0",
    "lvsm_encoder_decoder": "#1b8a8a",
    "lvsm_l6": "#c9a5dd",
    "lvsm_l12": "#b384cd",
    "lvsm_l18": "#9c62bb",
    "lvsm_l24": "#8a4fb0",
    "lact": "#b06f00",
    "lact_views": "#8f5a00",
    "lact_l14_ttt2x": "#dba94a",
    "lact_l24_ttt4x": "#7a4a00",
    "depthsplat": "#2f7d32",
    "depthsplat_mv": "#8bb174",
    "depthsplat_mv_pm": "#3c5e2b",
    "depthsplat_plain": "#7d9a2f",
    "depthsplat_pmloss": "#0f6b4f",
    "nearest_context": "#5f6b76",
    "mean_context": "#8c7a3f",
    "mean_colour": "#a8b0b8",
}
SPARE_COLOURS = ("#7b3fa0", "#1b8a8a", "#b0307f", "#4f7a1f")
SPLITS = ("large", "medium", "small", "extrapolation", "full", "held_out")
SETTINGS = {
    "svg.hashsalt": "novelview",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.0,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e7eb",
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.5,
    "figure.dpi": 100,
    "savefig.facecolor": "white",
}


def use_style() -> None:
    """Start from matplotlib's defaults, whatever the user's own settings file says, and apply the house settings."""
    plt.rcdefaults()
    matplotlib.use("Agg")
    for name, value in SETTINGS.items():
        plt.rcParams[name] = value  # type: ignore[index]


def save(figure: Figure, stem: Path | str) -> list[Path]:
    """Write `stem`.svg and `stem`.png without dates or program versions, so equal data gives equal bytes."""
    base = Path(stem)
    written = []
    for suffix, metadata in ((".svg", {"Date": None, "Creator": None}), (".png", {"Software": None})):
        path = base.with_name(base.name + suffix)
        with replacing(path) as partial:
            figure.savefig(partial, dpi=200, metadata=metadata, bbox_inches="tight", pad_inches=0.08)
        written.append(path)
    plt.close(figure)
    return written


def label(model: str) -> str:
    """Return the name to print for a model or baseline: `ptlvsm` is `PT-LVSM`."""
    if model.endswith(SWAPPED):
        return f"{label(model.removesuffix(SWAPPED))}, another target's pose"
    return LABELS.get(model, model)


def colour(model: str) -> str:
    """Return the model's colour, the same in every figure."""
    own = COLOURS.get(model.removesuffix(SWAPPED))
    return own or SPARE_COLOURS[sum(model.encode()) % len(SPARE_COLOURS)]


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
    return title_of(set_name) if split == set_name else f"{split.replace('_', ' ')}, {title_of(set_name)}"


def picture_axis(axis: Axes) -> None:
    """Turn an axis into a bare frame for a picture."""
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(False)
    for spine in axis.spines.values():
        spine.set_visible(False)
