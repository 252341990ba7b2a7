"""The report's content, one function a section: plain data that the template prints."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from novelview.config.schema import Resolution
from novelview.figures.curves import Curve
from novelview.figures.gallery import Sample, error_map, finest, read_gallery
from novelview.figures.media import error_uri, figure_uri, picture_uri, video_uri
from novelview.figures.qualitative import ERROR_LIMIT, ERROR_MAP
from novelview.figures.results import Evaluation
from novelview.figures.results_table import given
from novelview.figures.statements import Statement
from novelview.figures.style import label, title_of
from novelview.figures.tables import Table, to_html

FIGURES = {
    "views": (
        "Number of context views",
        "The same target views from more and more context views, with 95 % bootstrap intervals; beside it the median "
        "time to reconstruct a scene and, once it is reconstructed, to render a view of it.",
    ),
    "gaps": (
        "PSNR against context gap and overlap",
        "Bars are 95 % bootstrap intervals; each model stands beside the trivial baselines at its own resolution.",
    ),
    "posefree": (
        "Estimated cameras: what they cost",
        "PSNR by overlap class on the targets that every estimator placed, with 95 % bootstrap intervals over scenes; "
        "filled: given cameras, open: estimated ones. Beside it a point a target: the error of its estimated camera "
        "after Sim(3), and what the render gains or loses by it.",
    ),
    "depth": (
        "PSNR against depth",
        "Filled: the main recipe; open: the shorter one of the ablation. Bars are 95 % bootstrap intervals.",
    ),
    "scaling": (
        "PSNR against training scenes",
        "Lines are least-squares fits on the logarithm of the number of scenes. Bars are 95 % bootstrap intervals over "
        "test scenes; hollow: published slopes, of other data and sizes than a demo's.",
    ),
    "qualitative": (
        "Pictures",
        "Each row is one target view: what was given, the target, the copy of the nearest context view, and every "
        "model's render with its error map.",
    ),
    "depth_maps": (
        "Depth",
        "The first context view of a sample, its depth, and the target view with its renders. Every row has a colour "
        "scale of its own, that of the true depth where it is known. Black in a render: what no context view saw.",
    ),
    "attention": (
        "Attention of the encoder",
        "A patch marked red in context view 1, and where in context view 2 its attention goes: yellow is high, dark "
        "violet low, each map scaled to its own range.",
    ),
    "camera_paths": (
        "Estimated cameras",
        "Camera centres after Sim(3) alignment to the true ones; strokes show viewing directions. The alignment takes "
        "away scale, rotation and origin, and nothing else.",
    ),
    "training_curves": (
        "Training",
        "Phases end to end: the small resolution first, then the finetuning at the large one.",
    ),
}
SETS = {
    "seen": "seen: rooms never trained on, textures from the photographs used in training",
    "new": "new: rooms never trained on, textures from photographs never used in training",
    "held_out": "held out: photographs of the scene that training never saw, between their neighbours",
}


def figure_blocks(folder: Path) -> list[dict[str, str]]:
    """Return the figures found in `folder`, in the page's order."""
    found = [(name, *text) for name, text in FIGURES.items() if (folder / f"{name}.png").is_file()]
    return [
        {"name": name, "title": title, "caption": caption, "data": figure_uri(folder / name)}
        for name, title, caption in found
    ]


def comparison_data(evaluations: list[Evaluation], name: Callable[[Evaluation], str] | None = None) -> Markup:
    """Return every kept sample of every model as JSON for the slider; empty when no pictures were kept.

    name: what an evaluation is called on the page (default `who`).
    """
    kept = [item for item in evaluations if (item.folder / "gallery.safetensors").is_file()]
    kept.sort(key=lambda item: item.resolution, reverse=True)
    models = [{"name": (name or who)(item), "samples": [_sample(one) for one in read_gallery(item)]} for item in kept]
    models = [model for model in models if model["samples"]]
    # "</" would end the script element early; JSON reads the escaped form as the same string.
    return Markup(json.dumps(models).replace("</", "<\\/")) if models else Markup("")


def _sample(sample: Sample) -> dict[str, Any]:
    height, width = sample.target.shape[:2]
    return {
        "name": f"{sample.set}, {sample.split}, {sample.scene}, frame {sample.target_frame}",
        "target": picture_uri(sample.target),
        "render": picture_uri(sample.render),
        "nearest": picture_uri(sample.nearest),
        "error": error_uri(error_map(sample.render, sample.target), ERROR_LIMIT, ERROR_MAP),
        "context0": picture_uri(sample.context[0]),
        "context1": picture_uri(sample.context[-1]),
        "frames": [sample.context_frames[0], sample.context_frames[-1]],
        "psnr": f"{sample.psnr:.2f}",
        "psnr_nearest": f"{sample.psnr_nearest:.2f}",
        "aspect": f"{width} / {height}",
    }


def video_blocks(
    evaluations: list[Evaluation], name: Callable[[Evaluation], str] | None = None
) -> list[dict[str, str]]:
    """Return the camera-path videos of every model at its highest resolution; name: as for `comparison_data`."""
    return [
        {"caption": f"{(name or who)(item)}: {path.stem.removeprefix('path_')}", "data": video_uri(path)}
        for item in finest(evaluations)
        for path in sorted(item.folder.glob("path_*.mp4"))
    ]


def ply_links(evaluations: list[Evaluation], folder: Path) -> list[dict[str, str]]:
    """Return the PLY files that evaluations wrote, with their addresses as seen from `folder`."""
    found = [(item, path) for item in evaluations for path in sorted(item.folder.glob("gaussians_*.ply"))]
    return [
        {"text": f"{who(item)}: {path.name}", "href": quote(os.path.relpath(path, folder).replace(os.sep, "/"))}
        for item, path in found
    ]


def statement_groups(found: list[Statement]) -> list[dict[str, Any]]:
    """Group the statements by subject, finest resolution first, each with its tally."""
    names = dict.fromkeys((item.about, item.set, item.resolution) for item in found)
    finest_first = sorted(names, key=lambda name: name[2], reverse=True)
    ordered = sorted(finest_first, key=lambda name: name[0] != "baseline")
    return [_statement_group(name, found) for name in ordered]


def _statement_group(name: tuple[str, str, Resolution], found: list[Statement]) -> dict[str, Any]:
    about, set_name, resolution = name
    own = [item for item in found if (item.about, item.set, item.resolution) == name]
    title = "against the best trivial baseline" if about == "baseline" else "is the target's pose used?"
    place = title_of(set_name)
    return {"title": f"{place[0].upper()}{place[1:]}, {resolution} px: {title}", "tally": tally(own), "found": own}


def tally(found: list[Statement]) -> str:
    """Return `3 wins, 1 unclear, 2 losses`."""
    counts = {kind: sum(item.verdict == kind for item in found) for kind in ("win", "tie", "loss")}
    wins = f"{counts['win']} win{'s' * (counts['win'] != 1)}"
    losses = f"{counts['loss']} loss{'es' * (counts['loss'] != 1)}"
    return f"{wins}, {counts['tie']} unclear, {losses}"


def table_blocks(tables: list[Table]) -> list[dict[str, Any]]:
    """Return the result tables as HTML with their notes."""
    return [
        {"title": table.title, "rows": table.rows, "html": Markup(to_html(table)), "notes": table.notes}
        for table in tables
    ]


def input_rows(evaluations: list[Evaluation]) -> list[dict[str, str]]:
    """Return what each model was given."""
    return [
        {
            "model": label(item.model),
            "resolution": f"{item.resolution} px",
            "data": item.dataset if item.subset == "full" else f"{item.dataset}, {item.subset}",
            "given": given(item),
        }
        for item in evaluations
    ]


def sets_note(evaluations: list[Evaluation]) -> str:
    """Explain the sets that occur, and how splits are named."""
    names = list(dict.fromkeys(group.set for item in evaluations for group in item.groups))
    parts = [SETS.get(name, name) for name in names]
    return (
        "; ".join(parts)
        + ". Splits: large, medium and small overlap of the two contexts; gap N: contexts N frames apart; uniform N, "
        "random N, kmeans N: N context views, chosen that way."
    )


def who(evaluation: Evaluation) -> str:
    """Return `PT-LVSM, 126 px`."""
    return f"{label(evaluation.model)}, {evaluation.resolution} px"


def training_seconds(curves: list[Curve], evaluation: Evaluation) -> float | None:
    """Return how long the evaluated weights trained, their own phase only, or None when no log was given."""
    same = [item for item in curves if (item.model, item.resolution) == (evaluation.model, evaluation.resolution)]
    return float(same[0].columns["seconds"][-1]) if same else None
