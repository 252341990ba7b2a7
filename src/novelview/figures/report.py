"""The report of a study: one HTML file that needs no other file and no network; plain data that a template prints."""

import json
import os
from collections.abc import Callable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from novelview.errors import DataError
from novelview.figures import pictures, released
from novelview.figures.geometry import geometry_table
from novelview.figures.posefree import posefree_table
from novelview.figures.results import Curve, Evaluation, Results, finest, grouped, sections
from novelview.figures.results_table import Statement, given, resampled, results_table, score_grids, statements, tally
from novelview.figures.scaling import depth_table, main_lines, orderings, scaling_table
from novelview.figures.story import story
from novelview.figures.style import label, place_of, title_of
from novelview.figures.tables import difference, verdict
from novelview.figures.transfer import transfer_table
from novelview.files import write_text

UNKNOWN = "unknown"
NAME, SIZE = attrgetter("name"), attrgetter("resolution")


def write_report(results: Results, figures: Path, out: Path, showcase: Sequence[Path] = ()) -> None:
    """Write the report of a study's results to `out`; raises DataError for a missing or damaged input, one line.

    figures: the folder of the finished figures; showcase: evaluation folders of released checkpoints."""
    if not figures.is_dir():
        raise DataError(f"{figures}: no folder of figures here; run the figures stage first")
    evaluations, study = results.evaluations, results.study
    found, shown = statements(evaluations), released.read_showcase(showcase)
    section = _released(shown, results)
    tables = [*results_table(results).grids]
    protocol = tables[-1].notes
    tables += depth_table(results).grids if "depth_table" in study.tables else ()
    tables += geometry_table(results).grids if "geometry_table" in study.tables else ()
    tables += transfer_table(results).grids if "transfer_table" in study.tables else ()
    tables += posefree_table(results).grids if study.poses.get(results.scale) else ()
    several = len({item.subset for item in results.ladder} - {released.ADOPTED}) > 1
    tables += scaling_table(results).grids if several else ()
    versions = {name: version for item in evaluations for name, version in item.summary.get("versions", {}).items()}
    page = released.render(
        "report.html.j2",
        **{"label": label, "given": given, "figure_uri": pictures.figure_uri, "error_limit": pictures.ERROR_LIMIT},
        **{"title": study.title or study.name, "study": study.name, "scale": results.scale},
        **{"evaluations": evaluations, "tables": tables, "protocol": protocol, "released": section},
        blurry=results.scale == "demo" and not all(item.summary.get("geometry") for item in evaluations),
        story=story(evaluations, results.curves, results.scale, shown),
        tiles=_tiles(evaluations, found) + (_tiles(shown, statements(shown))[1:] if shown else []),
        statements=_statement_groups(found),
        comparisons=section["comparisons"] if shown else _comparisons(evaluations),
        videos=[] if shown else _videos(evaluations),
        drawn={path.stem: path.with_suffix("") for path in figures.glob("*.png")},
        plys=ply_links(evaluations, out.parent),
        orderings=orderings(main_lines(results), results.published("scaling_gain")) if several else [],
        resampled=resampled(evaluations),
        sets=dict.fromkeys(group.set for item in evaluations for group in item.groups),
        provenance=[_origin(item, results.curves) for item in evaluations],
        versions=", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
    )
    write_text(out, page)


def _tiles(evaluations: Sequence[Evaluation], found: Sequence[Statement]) -> list[dict[str, str]]:
    """Return the page's first glance: a tally, and each model's difference on its widest split of the first set."""
    first, splits = sections(evaluations)[0]
    won = tally([item for item in found if item.about == "baseline"])
    boxes = [{"value": won, "text": "against the best trivial baseline, all splits", "tone": ""}]
    for item in finest(evaluations):
        if margin := item.margin(first, splits[-1]):
            text = f"{item.name}, {place_of(first, splits[-1])}: against the best trivial baseline"
            value = difference(margin.score).partition(" [")[0]
            boxes.append({"value": value, "text": text, "tone": verdict(margin.score)})
    return boxes


def _statement_groups(found: Sequence[Statement]) -> list[dict[str, Any]]:
    about = {"baseline": "against the best trivial baseline", "pose": "is the target's pose used?"}
    ordered = sorted(sorted(found, key=SIZE, reverse=True), key=lambda item: item.about != "baseline")
    groups = grouped(ordered, lambda item: f"{title_of(item.set)}, {item.resolution} px: {about[item.about]}")
    return [{"title": key[0].upper() + key[1:], "tally": tally(own), "found": own} for key, own in groups.items()]


def _released(shown: Sequence[Evaluation], results: Results) -> dict[str, Any]:
    """Return what the page has of released checkpoints; its comparisons take the place of the page's own."""
    own, scale = results.evaluations, results.scale
    if not shown:
        return {"none_yet": scale in results.study.showcase, "kinds": []}
    names = {id(item): f"{item.name}, {released.origin(item, own)}" for item in own}
    fresh = {id(item) for item in own if scale == "demo" and released.origin(item, own) == released.OWN}
    videos = _videos(shown, lambda item: f"{item.name}, trained on {item.config.get('dataset', '?')}")
    videos += _videos(own, lambda item: names[id(item)] + (", two CPU cores, minutes" if id(item) in fresh else ""))
    return {
        "none_yet": False,
        "kinds": released.kinds(shown, own),
        "tables": score_grids(shown),
        "videos": videos,
        "comparisons": _comparisons([*shown, *own], lambda item: names.get(id(item), item.name)),
    }


def _comparisons(evaluations: Sequence[Evaluation], name: Callable[[Evaluation], str] = NAME) -> Markup:
    """Return every kept sample as JSON for the slider, empty where none was kept; name: what models are called."""
    kept = sorted(filter(pictures.has_gallery, evaluations), key=SIZE, reverse=True)
    models = [{"name": name(item), "samples": [_sample(one) for one in pictures.read_gallery(item)]} for item in kept]
    models = [model for model in models if model["samples"]]
    # "</script" would end the element early, "<!--<script" never; JSON reads the escaped form as the same string.
    return Markup(json.dumps(models).replace("<", "\\u003c")) if models else Markup("")


def _sample(sample: pictures.Sample) -> dict[str, Any]:
    height, width = sample.target.shape[:2]
    first, last = (pictures.picture_uri(sample.context[place]) for place in (0, -1))
    return {
        "name": f"{sample.set}, {sample.split}, {sample.scene}, frame {sample.target_frame}",
        **{name: pictures.picture_uri(getattr(sample, name)) for name in ("target", "render", "nearest")},
        "error": pictures.error_uri(sample),
        "context0": first,
        "context1": last,
        "frames": [sample.context_frames[0], sample.context_frames[-1]],
        "psnr": f"{sample.psnr:.2f}",
        "psnr_nearest": f"{sample.psnr_nearest:.2f}",
        "aspect": f"{width} / {height}",
    }


def _videos(evaluations: Sequence[Evaluation], name: Callable[[Evaluation], str] = NAME) -> list[dict[str, str]]:
    """Return the camera-path videos of every model at its highest resolution; name: as for `_comparisons`."""
    return [
        {
            "caption": f"{name(item)}: {mp4.stem.removeprefix('path_')}",
            "data": pictures.data_uri(mp4.read_bytes(), "video/mp4"),
        }
        for item in finest(evaluations)
        for mp4 in sorted(item.folder.glob("path_*.mp4"))
    ]


def ply_links(evaluations: Sequence[Evaluation], folder: Path) -> list[dict[str, str]]:
    """Return the PLY files that evaluations wrote, with their addresses as seen from `folder`."""
    return [
        {"text": f"{item.name}: {path.name}", "href": quote(os.path.relpath(path, folder).replace(os.sep, "/"))}
        for item in evaluations
        for path in sorted(item.folder.glob("gaussians_*.ply"))
    ]


def _origin(item: Evaluation, curves: Sequence[Curve]) -> list[str]:
    """Return where a model's numbers come from: digests, seed, steps and duration; never a path of this machine."""
    summary, train = item.summary, item.config.get("train", {})
    weights, parameters = summary.get("weights", {}), summary.get("parameters")
    # Of the evaluated weights' own phase only; unknown when no log was given.
    own = [curve for curve in curves if (curve.model, curve.resolution) == (item.model, item.resolution)]
    return [
        item.name,
        f"{parameters:,}" if parameters else UNKNOWN,
        str(weights.get("sha256", UNKNOWN))[:12],
        *(f"{one.get('digest', UNKNOWN)} / {one.get('code') or UNKNOWN}" for one in (weights, summary)),
        *(str(train.get(key, UNKNOWN)) for key in ("seed", "steps", "batch_size")),
        duration(float(own[0].columns["seconds"][-1]) if own else None),
    ]


def duration(seconds: float | None) -> str:
    """Return `45 s`, `2 min 05 s`, `3 h 20 min`, or `unknown`."""
    if seconds is None:
        return UNKNOWN
    minutes, left = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {left:02d} s" if minutes else f"{left} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
