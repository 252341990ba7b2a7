"""The main results: in sentences, as tables of scores and paired differences, and beside the published numbers."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from novelview.config.schema import Resolution, Study
from novelview.errors import DataError
from novelview.evaluation.published import PublishedRow, protocol
from novelview.figures.results import Evaluation, Margin, Results, sections
from novelview.figures.style import BASELINES, SWAPPED, label, place_of, spaced, title_of
from novelview.figures.tables import (
    NONE,
    Cell,
    Grid,
    Row,
    Table,
    difference,
    difference_cell,
    score_cell,
    score_cells,
    shown,
    verdict,
)

BASELINE_WORDS = {
    "nearest_context": "copying the nearest context view",
    "mean_context": "the mean of the context views",
    "mean_colour": "the contexts' mean colour",
}
LETTERS = {"nearest_context": "N", "mean_context": "M", "mean_colour": "C"}
MISSING = "LPIPS: n/a (weights not downloaded)."
IN_PLACE = "LPIPS: n/a (weights not downloaded); FLIP in its place (lower is better), of models alone."
GIVEN = {"context_poses": "context poses", "target_poses": "target pose", "target_images": "target image"}
HEADER = ("table", "model", "resolution", "set", "split", "metric", "mean", "low", "high", "count", "baseline")


@dataclass(frozen=True)
class Statement:
    """A sentence about one model on one split of one set.

    verdict: win, tie or loss; about: baseline (the best trivial one) or pose (its own against another target's)."""

    text: str
    verdict: str
    about: str
    set: str
    resolution: Resolution


def statements(evaluations: Sequence[Evaluation]) -> list[Statement]:
    """Return a sentence for every model, resolution, set and split, wins and losses alike, then on swapped poses."""
    found = [
        _statement(evaluation, margin, "baseline", BASELINE_WORDS[margin.baseline])
        for name, splits in sections(evaluations)
        for evaluation in evaluations
        for split in splits
        if (margin := evaluation.margin(name, split))
    ]
    return found + [
        _statement(evaluation, margin, "pose", "another target's pose")
        for evaluation in evaluations
        for margin in evaluation.margins
        if margin.model == evaluation.model and margin.baseline == evaluation.model + SWAPPED
    ]


def _statement(evaluation: Evaluation, margin: Margin, about: str, other: str) -> Statement:
    kind = verdict(margin.score)
    word = "over" if kind == "win" or about == "pose" else "against"
    who = f"{label(evaluation.model)} at {evaluation.resolution} px, {place_of(margin.set, margin.split)}"
    text = f"{who}: {difference(margin.score)} {word} {other}"
    return Statement(text, kind, about, margin.set, evaluation.resolution)


def tally(found: Sequence[Statement]) -> str:
    """Return `3 wins, 1 unclear, 2 losses`."""
    wins, ties, losses = (sum(item.verdict == kind for item in found) for kind in ("win", "tie", "loss"))
    return f"{wins} win{'s' * (wins != 1)}, {ties} unclear, {losses} loss{'es' * (losses != 1)}"


def results_table(results: Results) -> Table:
    """Return scores and differences a set, then the published comparison; DataError when nothing was evaluated."""
    evaluations = results.evaluations
    found = score_grids(evaluations)
    if not found:
        raise DataError(f"{evaluations[0].folder}: no split was evaluated; run the evaluation again")
    return Table((*found, published_grid(results)), HEADER, _records(evaluations))


def given(evaluation: Evaluation) -> str:
    """Return what the model is given beside the context images, in words."""
    flags = evaluation.summary.get("given", {})
    return ", ".join(word for key, word in GIVEN.items() if flags.get(key)) or "nothing"


def resampled(evaluations: Sequence[Evaluation]) -> str:
    """Return what the bootstrap resampled: scenes, or images where there is a single scene."""
    kinds = {row.get("resampled", "scenes") for item in evaluations for row in item.summary["groups"]}
    return "scenes" if kinds <= {"scenes"} else "images (of a single scene: it says nothing about other scenes)"


def score_grids(evaluations: Sequence[Evaluation], kinds: Sequence[Callable[..., Grid]] = ()) -> list[Grid]:
    """Return a grid of each kind on each set: the scores and the differences against baselines, or those named."""
    kinds = kinds or (score_grid, margin_grid)
    return [grid(evaluations, name, splits) for name, splits in sections(evaluations) for grid in kinds]


def score_grid(evaluations: Sequence[Evaluation], set_name: str, splits: Sequence[str]) -> Grid:
    """Return the scores of every model and baseline on one set, a block a resolution, best PSNR marked."""
    rows = []
    for block, size in enumerate(sorted({item.resolution for item in evaluations})):
        own = [item for item in evaluations if item.resolution == size]
        lines = [*((item, item.model) for item in own), *((own[0], name) for name in BASELINES)]
        scores = score_cells([[item.scores(set_name, split, model) for split in splits] for item, model in lines])
        for (item, model), cells in zip(lines, scores, strict=True):
            kind, inputs = ("baseline", NONE) if model in BASELINES else ("model", given(item))
            rows.append(Row((label(model), f"{size} px", inputs), cells, kind, block))
    counts = {}
    for item in evaluations:
        counts |= {split: group.count for split in splits if (group := item.group(set_name, split))}
    notes = (
        f"Cells: PSNR [dB] / SSIM / {perceptual(evaluations)} / sharpness, means over target images; bold: highest "
        "PSNR at a size.",
        "Sharpness: 1 as sharp as the truth, towards 0 blurred; noise lowers it (novelview.evaluation.metrics).",
        "Also given: what the model takes beside the context images to render a target.",
        f"Target images: {', '.join(f'{spaced(split)} {counts[split]}' for split in splits if split in counts)}.",
        *_lpips_note(evaluations),
    )
    title, head = f"Scores, {title_of(set_name)}", ("Method", "Size", "Also given")
    return Grid(title, head, tuple(map(spaced, splits)), tuple(rows), notes)


def _lpips_note(evaluations: Sequence[Evaluation]) -> tuple[str, ...]:
    absent = any(not group.scores["lpips"].known for item in evaluations for group in item.groups)
    return (IN_PLACE if perceptual(evaluations) == "FLIP" else MISSING,) if absent else ()


def perceptual(evaluations: Sequence[Evaluation]) -> str:
    """Return the name of the perceptual metric in the cells of `score_cell`: LPIPS, or FLIP in its place."""
    return "FLIP" if any("flip" in shown(group.scores) for item in evaluations for group in item.groups) else "LPIPS"


def margin_grid(evaluations: Sequence[Evaluation], set_name: str, splits: Sequence[str]) -> Grid:
    """Return each model's paired PSNR difference against the best trivial baseline of the column, with intervals."""
    rows = []
    for item in evaluations:
        margins = (item.margin(set_name, split) for split in splits)
        cells = (difference_cell(one.score, f" {LETTERS[one.baseline]}") if one else Cell(NONE) for one in margins)
        rows.append(Row((label(item.model), f"{item.resolution} px"), tuple(cells)))
    note = (
        f"Cells: mean PSNR difference [dB] over the same target images, 95 % bootstrap interval over "
        f"{resampled(evaluations)}, and the baseline it is against "
        f"(N nearest context view, M mean of the context views, C mean colour)."
    )
    title = f"Difference against the best trivial baseline, {title_of(set_name)}"
    return Grid(title, ("Method", "Size"), tuple(map(spaced, splits)), tuple(rows), (note,))


def published_grid(results: Results) -> Grid:
    """Return ours beside the published rows of the same models, or a grid that says there are none."""
    evaluations = results.evaluations
    models = dict.fromkeys(item.model for item in evaluations)
    found = {model: results.published("main", model) for model in models}
    columns = tuple(dict.fromkeys(str(one.split) for own in found.values() for one in own))
    rows: list[Row] = []
    for block, model in enumerate(name for name in models if found[name]):
        own = [(one, name) for one in evaluations if one.model == model for name, _ in sections([one])]
        for item, name in own:
            where = f"ours: {item.dataset}, {title_of(name)}, {item.resolution} px"
            cells = tuple(score_cell(item.scores(name, split)) for split in columns)
            rows.append(Row((label(model), where), cells, block=block))
        rows += _published_rows(found[model], columns, block)
    notes = _protocol_notes(results.study, evaluations, [row for item in evaluations for row in found[item.model]])
    notes += _lpips_note(evaluations) if rows else ()
    return Grid("Beside the published numbers", ("Method", "Measured on"), columns, tuple(rows), notes)


def _published_rows(own: Sequence[PublishedRow], columns: Sequence[str], block: int) -> list[Row]:
    lines: dict[tuple[str, str], dict[str, Cell]] = {}
    for one in own:
        where = f"published: {one.dataset}, {one.resolution} px ({one.grade} source)"
        values = ((one.psnr, 2), (one.ssim, 3), (one.lpips, 3))
        psnr, *rest = ("n/a" if value is None else f"{value:.{digits}f}" for value, digits in values)
        lines.setdefault((one.method, where), {})[str(one.split)] = Cell(psnr, "".join(f" / {text}" for text in rest))
    return [
        Row(head, tuple(cells.get(split, Cell(NONE)) for split in columns), "published", block)
        for head, cells in lines.items()
    ]


def _protocol_notes(study: Study, evaluations: Sequence[Evaluation], rows: Sequence[PublishedRow]) -> tuple[str, ...]:
    measured = dict.fromkeys(str(item.summary["protocol"]) for item in evaluations if "protocol" in item.summary)
    ours = f"Ours: {' '.join(measured)}"
    if study.published is None:
        return "No published rows exist for this study.", ours
    theirs = {f"{row.dataset} at {row.resolution} px, {row.train_scenes or '?'} training scenes" for row in rows}
    own = dict.fromkeys(f"{item.dataset} at {item.resolution} px" for item in evaluations)
    same = {f"re10k at {row.resolution} px" for row in rows if row.dataset == "RealEstate10K"} & set(own)
    level = "the rows of the same data and size may be compared" if same else "the rows are not comparable in level"
    differs = f"published {'; '.join(sorted(theirs)) or 'nothing'}; ours {', '.join(own)}: {level}"
    return f"Published: {protocol(study.published)}", ours, f"What differs: {differs}."


def _records(evaluations: Sequence[Evaluation]) -> list[list[object]]:
    """Return every score and paired difference at full precision, one line each; empty where not computed."""
    lines: list[list[object]] = []
    for item in evaluations:
        for group in item.groups:
            place = ["scores", group.model, item.resolution, group.set, group.split]
            lines += [[*place, metric, *score, group.count, ""] for metric, score in group.scores.items()]
        for margin in item.margins:
            place = ["differences", margin.model, item.resolution, margin.set, margin.split, "psnr"]
            lines.append([*place, *margin.score, "", margin.baseline])
    return [["" if isinstance(value, float) and math.isnan(value) else value for value in line] for line in lines]
