"""The report of a study: one HTML file that needs no other file and no network; plain data that a template prints."""

import json
import os
from collections.abc import Callable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from novelview.errors import DataError
from novelview.figures import released
from novelview.figures.depth import depth_table
from novelview.figures.geometry import geometry_table
from novelview.figures.pictures import (
    ERROR_LIMIT,
    Sample,
    data_uri,
    error_uri,
    figure_uri,
    has_gallery,
    picture_uri,
    read_gallery,
)
from novelview.figures.posefree import posefree_table
from novelview.figures.results import Curve, Evaluation, Results, finest, sections
from novelview.figures.results_table import (
    Statement,
    given,
    margin_grid,
    resampled,
    results_table,
    score_grid,
    statements,
    tally,
)
from novelview.figures.scaling import main_lines, orderings, scaling_table
from novelview.figures.style import label, place_of, title_of
from novelview.figures.tables import difference, verdict
from novelview.files import write_text

FIGURES = {  # in the page's order: its name in the navigation, its title and its caption
    "views": (
        *("Views", "Number of context views"),
        "The same target views from more and more context views, with 95 % bootstrap intervals; beside it the median "
        "time to reconstruct a scene and, once it is reconstructed, to render a view of it.",
    ),
    "gaps": (
        *("Gaps", "PSNR against context gap and overlap"),
        "Bars are 95 % bootstrap intervals; each model stands beside the trivial baselines at its own resolution.",
    ),
    "posefree": (
        *("Poses", "Estimated cameras: what they cost"),
        "PSNR by overlap class on the targets that every estimator placed, with 95 % bootstrap intervals over scenes; "
        "filled: given cameras, open: estimated ones. Beside it a point a target: the error of its estimated camera "
        "after Sim(3), and what the render gains or loses by it.",
    ),
    "depth": (
        *("Depth", "PSNR against depth"),
        "Filled: the main recipe; open: the shorter one of the ablation. Bars are 95 % bootstrap intervals.",
    ),
    "scaling": (
        *("Scaling", "PSNR against training scenes"),
        "Lines are least-squares fits on the logarithm of the number of scenes. Bars are 95 % bootstrap intervals over "
        "test scenes; hollow: published slopes, of other data and sizes than a demo's.",
    ),
    "qualitative": (
        *("Pictures", "Pictures"),
        "Each row is one target view: what was given, the target, the copy of the nearest context view, and every "
        "model's render with its error map.",
    ),
    "depth_maps": (
        *("Depth maps", "Depth"),
        "The first context view of a sample, its depth, and the target view with its renders. Every row has a colour "
        "scale of its own, that of the true depth where it is known. Black in a render: what no context view saw.",
    ),
    "attention": (
        *("Attention", "Attention of the encoder"),
        "A patch marked red in context view 1, and where in context view 2 its attention goes: yellow is high, dark "
        "violet low, each map scaled to its own range.",
    ),
    "camera_paths": (
        *("Cameras", "Estimated cameras"),
        "Camera centres after Sim(3) alignment to the true ones; strokes show viewing directions. The alignment takes "
        "away scale, rotation and origin, and nothing else.",
    ),
    "training_curves": (
        *("Training", "Training"),
        "Phases end to end: the small resolution first, then the finetuning at the large one.",
    ),
}
SETS = {
    "seen": "seen: rooms never trained on, textures from the photographs used in training",
    "new": "new: rooms never trained on, textures from photographs never used in training",
    "held_out": "held out: photographs of the scene that training never saw, between their neighbours",
}
BEFORE = {
    "released": "Released",
    "statements": "Findings",
    "results": "Results",
    "compare": "Compare",
    "videos": "Videos",
}
AFTER = {"protocol": "Protocol", "reading": "How to read", "provenance": "Provenance"}
UNKNOWN = "unknown"
NAME = attrgetter("name")  # what an evaluation is called where nothing else is said


def write_report(results: Results, figures: Path, out: Path, showcase: Sequence[Path] = ()) -> None:
    """Write the report of a study's results to `out`.

    figures: the folder of the finished figures; showcase: evaluation folders of released checkpoints. Raises DataError
    for a missing or damaged input, one line.
    """
    if not figures.is_dir():
        raise DataError(f"{figures}: no folder of figures here; run the figures stage first")
    evaluations, study = results.evaluations, results.study
    found, shown = statements(evaluations), released.read_showcase(showcase)
    section = _released(shown, results)
    main = results_table(results).grids
    tables = [*main]
    tables += depth_table(results).grids if "depth_table" in study.tables else ()
    tables += geometry_table(results).grids if "geometry_table" in study.tables else ()
    tables += posefree_table(results).grids if study.poses.get(results.scale) else ()
    several = len({item.subset for item in results.ladder} - {released.ADOPTED}) > 1
    tables += scaling_table(results).grids if several else ()
    versions = {name: version for item in evaluations for name, version in item.summary.get("versions", {}).items()}
    content = {
        "title": study.title or study.name,
        "study": study.name,
        "scale": results.scale,
        "blurry": results.scale == "demo" and not all(item.summary.get("geometry") for item in evaluations),
        "tiles": _tiles(evaluations, found) + (_tiles(shown, statements(shown))[1:] if shown else []),
        "statements": _statement_groups(found),
        "tables": tables,
        "released": section,
        "comparisons": section["comparisons"] if shown else _comparisons(evaluations),
        "error_limit": ERROR_LIMIT,
        "videos": [] if shown else _videos(evaluations),
        "figures": _figures(figures),
        "evaluations": evaluations,
        "label": label,
        "given": given,
        "plys": ply_links(evaluations, out.parent),
        "orderings": orderings(main_lines(results), results.published("scaling_gain")) if several else [],
        "protocol": main[-1].notes,
        "resampled": resampled(evaluations),
        "sets": dict.fromkeys(SETS.get(group.set, group.set) for item in evaluations for group in item.groups),
        "provenance": [_origin(item, results.curves) for item in evaluations],
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
    }
    content["sections"] = _present(content)
    environment = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    environment.loader = PackageLoader("novelview.figures")
    write_text(out, environment.get_template("report.html.j2").render(content))


def _present(content: dict[str, Any]) -> dict[str, str]:
    """Return the sections that the page has, and their names in its navigation."""
    names = BEFORE | {name: words[0] for name, words in FIGURES.items()} | AFTER
    absent = FIGURES.keys() - {figure["name"] for figure in content["figures"]}
    absent |= set() if content["released"]["kinds"] else {"released"}
    absent |= set() if content["comparisons"] else {"compare"}
    absent |= set() if content["videos"] else {"videos"}
    return {name: text for name, text in names.items() if name not in absent}


def _tiles(evaluations: Sequence[Evaluation], found: Sequence[Statement]) -> list[dict[str, str]]:
    """Return the page's first glance: a tally, and each model's difference on its widest split of the first set."""
    first, splits = sections(evaluations)[0]
    won = tally([item for item in found if item.about == "baseline"])
    boxes = [{"value": won, "text": "against the best trivial baseline, all splits", "tone": ""}]
    for item in finest(evaluations):
        margin = item.margin(first, splits[-1])
        if margin:
            text = f"{item.name}, {place_of(first, splits[-1])}: against the best trivial baseline"
            value = difference(margin.score).partition(" [")[0]
            boxes.append({"value": value, "text": text, "tone": verdict(margin.score)})
    return boxes


def _statement_groups(found: Sequence[Statement]) -> list[dict[str, Any]]:
    """Group the statements by subject, finest resolution first, each with its tally."""
    groups: dict[tuple[str, str, Any], list[Statement]] = {}
    for item in sorted(found, key=lambda item: item.resolution, reverse=True):
        groups.setdefault((item.about, item.set, item.resolution), []).append(item)
    ordered = sorted(groups.items(), key=lambda group: group[0][0] != "baseline")
    about = {"baseline": "against the best trivial baseline", "pose": "is the target's pose used?"}
    titles = [f"{title_of(name)}, {size} px: {about[what]}" for (what, name, size), _ in ordered]
    return [
        {"title": title[0].upper() + title[1:], "tally": tally(own), "found": own}
        for title, (_, own) in zip(titles, ordered, strict=True)
    ]


def _released(shown: Sequence[Evaluation], results: Results) -> dict[str, Any]:
    """Return what the page has of released checkpoints: empty where the study shows none at this scale.

    Keys: none_yet, or kinds (a heading, a note, lines and pictures for each), tables, videos of both, and comparisons,
    which take the place of the page's own.
    """
    own, scale = results.evaluations, results.scale
    if not shown:
        return {"none_yet": scale in results.study.showcase, "kinds": []}
    grids = [grid(shown, name, splits) for name, splits in sections(shown) for grid in (score_grid, margin_grid)]
    names = {id(item): f"{item.name}, {released.origin(item, own)}" for item in own}
    fresh = {id(item) for item in own if scale == "demo" and released.origin(item, own) == released.OWN}
    videos = _videos(shown, lambda item: f"{item.name}, trained on {item.config.get('dataset', '?')}")
    videos += _videos(own, lambda item: names[id(item)] + (", two CPU cores, minutes" if id(item) in fresh else ""))
    return {
        "none_yet": False,
        "kinds": released.kinds(shown, own, scale),
        "tables": grids,
        "videos": videos,
        "comparisons": _comparisons([*shown, *own], lambda item: names.get(id(item), item.name)),
    }


def _comparisons(evaluations: Sequence[Evaluation], name: Callable[[Evaluation], str] = NAME) -> Markup:
    """Return every kept sample of every model as JSON for the slider; empty when no pictures were kept.

    name: what an evaluation is called on the page.
    """
    kept = sorted(filter(has_gallery, evaluations), key=lambda item: item.resolution, reverse=True)
    models = [{"name": name(item), "samples": [_sample(one) for one in read_gallery(item)]} for item in kept]
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
        "error": error_uri(sample),
        "context0": picture_uri(sample.context[0]),
        "context1": picture_uri(sample.context[-1]),
        "frames": [sample.context_frames[0], sample.context_frames[-1]],
        "psnr": f"{sample.psnr:.2f}",
        "psnr_nearest": f"{sample.psnr_nearest:.2f}",
        "aspect": f"{width} / {height}",
    }


def _videos(evaluations: Sequence[Evaluation], name: Callable[[Evaluation], str] = NAME) -> list[dict[str, str]]:
    """Return the camera-path videos of every model at its highest resolution; name: as for `_comparisons`."""
    return [
        {"caption": f"{name(item)}: {mp4.stem.removeprefix('path_')}", "data": data_uri(mp4.read_bytes(), "video/mp4")}
        for item in finest(evaluations)
        for mp4 in sorted(item.folder.glob("path_*.mp4"))
    ]


def _figures(folder: Path) -> list[dict[str, str]]:
    """Return the figures found in `folder`, in the page's order."""
    return [
        {"name": name, "title": title, "caption": caption, "data": figure_uri(folder / name)}
        for name, (_, title, caption) in FIGURES.items()
        if (folder / f"{name}.png").is_file()
    ]


def ply_links(evaluations: Sequence[Evaluation], folder: Path) -> list[dict[str, str]]:
    """Return the PLY files that evaluations wrote, with their addresses as seen from `folder`."""
    found = [(item, path) for item in evaluations for path in sorted(item.folder.glob("gaussians_*.ply"))]
    return [
        {"text": f"{item.name}: {path.name}", "href": quote(os.path.relpath(path, folder).replace(os.sep, "/"))}
        for item, path in found
    ]


def _origin(item: Evaluation, curves: Sequence[Curve]) -> list[str]:
    """Return where a model's numbers come from: digests, seed, steps and duration; never a path of this machine."""
    weights, train = item.summary.get("weights", {}), item.config.get("train", {})
    parameters = item.summary.get("parameters")
    # Of the evaluated weights' own phase only; unknown when no log was given.
    own = [curve for curve in curves if (curve.model, curve.resolution) == (item.model, item.resolution)]
    return [
        item.name,
        f"{parameters:,}" if parameters else UNKNOWN,
        str(weights.get("sha256", UNKNOWN))[:12],
        str(weights.get("digest", UNKNOWN)),
        str(item.summary.get("digest", UNKNOWN)),
        *(str(train.get(key, UNKNOWN)) for key in ("seed", "steps", "batch_size")),
        duration(float(own[0].columns["seconds"][-1]) if own else None),
    ]


def duration(seconds: float | None) -> str:
    """Return `45 s`, `2 min 05 s`, `3 h 20 min`, or `unknown`."""
    if seconds is None:
        return UNKNOWN
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    return f"{total // 3600} h {total % 3600 // 60:02d} min"
