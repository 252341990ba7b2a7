"""The first thing on a study's page: one strip of pictures a scene, one sentence, and one small table."""

from collections.abc import Sequence
from itertools import pairwise, zip_longest
from typing import Any

from novelview.figures.pictures import Shared, any_of, has_gallery, picture_uri, read_gallery, shared_samples
from novelview.figures.results import Curve, Evaluation, Score, finest, grouped, sections
from novelview.figures.style import label, place_of
from novelview.figures.tables import Cell, Grid, Row, difference, difference_cell

STRIPS = 4  # scenes shown
# From most to least 3D knowledge: names of models, and what a model of that kind is told, in words.
KNOWLEDGE = (
    (("depthsplat",), "all poses; draws 3D Gaussians"),
    (("lvsm_decoder_only", "lvsm_encoder_decoder", "lvsm_efficient", "lact"), "all poses"),
    (("ptlvsm",), "the targets' poses and one context's"),
    (("uplvsm",), "no poses; sees a target through 7 numbers"),
)


def rank(item: Evaluation) -> int:
    """Return a model's place from most to least 3D knowledge."""
    name = str(item.config.get("model", {}).get("name", item.model))
    return next((place for place, (names, _) in enumerate(KNOWLEDGE) if name in names), len(KNOWLEDGE))


def told(item: Evaluation) -> str:
    """Return what a model knows of cameras and space, in words."""
    place = rank(item)
    return KNOWLEDGE[place][1] if place < len(KNOWLEDGE) else ""


def strips(evaluations: Sequence[Evaluation], count: int = STRIPS) -> list[list[dict[str, str]]]:
    """Return up to `count` scenes: contexts, truth and every model's render, from most to least 3D knowledge."""
    kept = sorted(filter(has_gallery, finest(evaluations)), key=rank)
    rows = [samples for samples in shared_samples([read_gallery(item) for item in kept]) if None not in samples]
    rows = [samples for samples in rows if any_of(samples).split != "extrapolation"] or rows  # what no context saw
    scenes = {any_of(samples).scene: samples for samples in sorted(rows, key=_width)}  # the widest of each
    sets = grouped(scenes.values(), lambda samples: any_of(samples).set)
    turns = [samples for turn in zip_longest(*list(sets.values())[::-1]) for samples in turn if samples]
    found = []
    for samples in turns[:count]:
        one = any_of(samples)
        cells = [("first context", one.context[0]), ("last context", one.context[-1])]
        cells.append((f"truth ({place_of(one.set, one.split)})", one.target))
        named = zip((label(item.model) for item in kept), samples, strict=True)
        cells += [(f"{name}, {sample.psnr:.1f} dB", sample.render) for name, sample in named if sample]
        found.append([{"caption": caption, "data": picture_uri(picture)} for caption, picture in cells])
    return found


def _width(samples: Shared) -> int:
    return max(any_of(samples).context_frames) - min(any_of(samples).context_frames)


def place(evaluations: Sequence[Evaluation]) -> tuple[str, str]:
    """Return the set and split of the first page: photographs never trained on, and the middle one of the gaps."""
    name, splits = sections(evaluations)[-1]
    gaps = [split for split in splits if split.startswith("gap")]
    return name, gaps[len(gaps) // 2] if gaps else splits[-1]


def margins(evaluations: Sequence[Evaluation]) -> list[tuple[Evaluation, Score]]:
    """Return each finest model with its difference against the best trivial baseline there, most knowledge first."""
    where = place(evaluations)
    own = [(item, item.margin(*where)) for item in sorted(finest(evaluations), key=rank)]
    return [(item, margin.score) for item, margin in own if margin]


def table(evaluations: Sequence[Evaluation], curves: Sequence[Curve], shown: Sequence[Evaluation]) -> Grid:
    """Return system, what it is told, PSNR over the best trivial baseline, seconds trained; released ones last."""
    rows = []
    for block, own in enumerate((evaluations, shown)):
        for item, score in margins(own) if own else ():
            seconds = trained_seconds(item, curves)
            time = f"{seconds:,.0f}" if seconds else "–"
            rows.append(Row((label(item.model), told(item)), (difference_cell(score), Cell(time)), block=block))
    columns = (f"PSNR over the best trivial baseline [dB], {place_of(*place(evaluations))}", "Trained [s]")
    return Grid("Systems", ("System", "Told"), columns, tuple(rows), ())


def trained_seconds(item: Evaluation, curves: Sequence[Curve]) -> float:
    """Return how long the phases that end in these weights were trained here, or elsewhere as their header says."""
    phases = item.config.get("released", {}).get("phases") or []
    if phases:
        return sum(float(phase.get("seconds") or 0) for phase in phases)
    own = [one for one in curves if one.model == item.model and one.subset == item.subset]
    return sum(float(one.columns["seconds"][-1]) for one in own if one.resolution <= item.resolution)


def sentence(evaluations: Sequence[Evaluation], curves: Sequence[Curve], scale: str) -> str:
    """Return what the table means: whether knowledge orders the systems, and what that does and does not say."""
    found = margins(evaluations)
    if len({rank(item) for item, _ in found}) < 2:
        return ""
    longest = max((trained_seconds(item, curves) for item, _ in found), default=0.0)
    how = f"With at most {longest / 60:.0f} minutes of one processor core each, " if scale == "demo" and longest else ""
    words = ", ".join(f"{label(item.model)} {difference(score).partition(' [')[0]}" for item, score in found)
    best = [max(score.mean for _, score in own) for own in grouped(found, lambda pair: rank(pair[0])).values()]
    falls = all(one >= other for one, other in pairwise(best))
    what = (
        "the more a system is told of the 3D world, the better it does"
        if falls
        else "the order is not that of 3D knowledge"
    )
    start = f"{how}{what}"
    claim = "That is little compute: knowledge wins. The paper's claim is what happens with more data (study scaling)."
    return f"{start[0].upper()}{start[1:]}: {words} against the best trivial baseline. {claim if falls else ''}".strip()


def story(
    evaluations: Sequence[Evaluation], curves: Sequence[Curve], scale: str, shown: Sequence[Evaluation]
) -> dict[str, Any]:
    """Return what the page begins with; shown: evaluations of released checkpoints."""
    return {
        "strips": strips(evaluations),
        "released": strips(shown, 2) if shown else [],
        "sentence": sentence(evaluations, curves, scale),
        "table": table(evaluations, curves, shown),
    }
