"""Weights that leave the project: their model card, and how the report shows them beside what was trained here."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from novelview.config.checkpoints import FOLDER
from novelview.figures.pictures import any_of, has_gallery, picture_uri, read_gallery, shared_samples
from novelview.figures.results import METRICS, Evaluation, Score, finest, read_evaluation
from novelview.figures.results_table import given, margin_grid, resampled, score_grid, score_grids, statements, tally
from novelview.figures.style import label, place_of, spaced, title_of
from novelview.figures.tables import NONE, Cell, Grid, Row, number, to_markdown

ADOPTED = "published"  # the training subset that adopted weights name
OWN = "from scratch"  # what the study's own runs are called beside released ones
ROWS = 4  # target views in the section's pictures


def read_showcase(folders: Sequence[Path]) -> list[Evaluation]:
    """Read the evaluations of released checkpoints, each named as no other run is: `UP-LVSM (released: uplvsm_mini)`.

    Raises DataError for a missing or damaged one."""
    found = []
    for one in map(read_evaluation, folders):
        name = f"{label(one.model)} (released: {one.folder.parent.name})"
        tables = {
            key: [{**row, "model": name} if row["model"] == one.model else row for row in one.summary[key]]
            for key in ("groups", "paired")
        }
        found.append(Evaluation(one.folder, {**one.summary, "model": name, **tables}))
    return found


def training_words(config: dict[str, Any], before: Sequence[dict[str, Any]] = ()) -> str:
    """Return how weights were trained: `500 steps of 24 scenes at 112 px, then ..., on rooms-mini at scale mini`.

    config: their header, of released ones with all phases; before: those of earlier phases. Scenes: of one process."""
    phases = config.get("released", {}).get("phases") or []
    for one in () if phases else (*before, config):
        views = one.get("views", {})
        size = f"{views.get('image_size', '?')}" + (f"x{views['image_width']}" if views.get("image_width") else "")
        phases.append({"steps": 1, "batch_size": 1, "grad_accum": 1, **one.get("train", {}), "size": size})
    words = [
        f"{one['steps']:,} steps of {one['batch_size'] * one['grad_accum']} scenes at {one['size']} px"
        for one in phases
    ]
    return f"{', then '.join(words)}, on {config.get('dataset', '?')} at scale {config.get('scale', '?')}"


def kinds(shown: Sequence[Evaluation], own: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """Return a heading, lines and pictures for released checkpoints, and for the study's own evaluations."""
    title = "From scratch" if all(origin(item, own) == OWN for item in own) else "This study's own"
    return [
        {"title": name, "lines": [_line(item, every) for item in found], "rows": _rows(found)}
        for name, found, every in (("Released", shown, shown), (title, finest(own), own))
    ]


def origin(item: Evaluation, own: Sequence[Evaluation]) -> str:
    """Return where the weights of one of a study's `own` evaluations are from, as the page says it."""
    if item.config.get("adopted"):
        return "adopted"
    return "from adopted weights" if any(one.get("adopted") for one in _before(item, own)) else OWN


def _before(item: Evaluation, every: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """Return the headers of a run's earlier phases: those of the smaller sizes, from whose weights it started."""
    own = [one for one in every if (one.model, one.dataset) == (item.model, item.dataset)]
    chain = [one for one in own if one.subset in (item.subset, ADOPTED) and one.resolution < item.resolution]
    return [one.config for one in sorted(chain, key=lambda one: one.resolution)]


def _line(item: Evaluation, every: Sequence[Evaluation]) -> str:
    where = origin(item, every)
    trained = {OWN: training_words(item.config, _before(item, every)), "adopted": "not trained here"}
    how = trained.get(where) or f"{where}, {training_words(item.config)}"
    won = tally([one for one in statements([item]) if one.about == "baseline"])
    return (
        f"{item.name}: {how}; {item.summary.get('parameters', 0):,} parameters; given beside the context views: "
        f"{given(item)}. Against the best trivial baseline: {won}."
    )


def _rows(found: Sequence[Evaluation]) -> list[list[dict[str, str]]]:
    """Return up to ROWS target views: contexts, target, the copy of the nearest context and every model's render."""
    kept = list(filter(has_gallery, found))
    lined_up = shared_samples([read_gallery(item) for item in kept])
    count = min(ROWS, len(lined_up))
    rows = []
    for samples in (lined_up[int((turn + 0.5) * len(lined_up) / count)] for turn in range(count)):
        one = any_of(samples)
        pictures = [("first context", one.context[0]), ("last context", one.context[-1])]
        pictures.append((f"target ({one.set}, {one.split})", one.target))
        pictures.append((f"nearest context, {one.psnr_nearest:.1f} dB", one.nearest))
        named = zip((label(item.model) for item in kept), samples, strict=True)
        pictures += [(f"{name}, {sample.psnr:.1f} dB", sample.render) for name, sample in named if sample]
        rows.append([{"caption": caption, "data": picture_uri(picture)} for caption, picture in pictures])
    return rows


def model_card(evaluation: Evaluation, licence: str, repo: str | None) -> str:
    """Return README.md: metadata with every score, then what it is, needs, scores, was trained on, and how to load it.

    licence: identifier of the hub, "other" where none is chosen; repo: owner/name it goes to, None when not known yet.
    """
    summary, config = evaluation.summary, evaluation.config
    grids = score_grids([evaluation], (score_grid, interval_grid, margin_grid))
    # What loads the weights: the folder of released ones, a placeholder for those that go to the hub.
    address = f"{FOLDER}/{config['released']['name']}" if config.get("released") else "owner/name"
    return render(
        "card.md.j2",
        **{"evaluation": evaluation, "summary": summary, "config": config, "licence": licence, "repo": repo},
        **{"title": card_title(evaluation), "label": label, "given": given(evaluation)},
        metadata=metadata(evaluation, licence),
        tables=to_markdown(grids),
        statements=statements([evaluation]),
        versions=", ".join(f"{name} {version}" for name, version in summary["versions"].items()),
        trained=training_words(config),
        hours=sum(float(one.get("seconds") or 0) for one in config.get("released", {}).get("phases", [])) / 3600,
        address=repo or address,
    )


def render(template: str, **content: Any) -> str:
    """Fill a file of the folder `templates`; what goes into HTML is escaped."""
    escaped = select_autoescape(["html.j2"])
    environment = Environment(autoescape=escaped, undefined=StrictUndefined, keep_trailing_newline=True)
    environment.loader = PackageLoader("novelview.figures")
    return environment.get_template(template).render(content)


def interval_grid(evaluations: Sequence[Evaluation], set_name: str, splits: Sequence[str]) -> Grid:
    """Return each model's own scores on one set with their intervals, a row a metric that was computed."""
    rows = [
        Row((label(item.model), metric), tuple(_interval(item, set_name, split, metric) for split in splits))
        for item in evaluations
        for metric in METRICS
        if any(group.scores[metric].known for group in item.groups if group.model == item.model)
    ]
    title, note = f"Intervals, {title_of(set_name)}", f"95 % bootstrap intervals over {resampled(evaluations)}."
    return Grid(title, ("Method", "Metric"), tuple(map(spaced, splits)), tuple(rows), (note,))


def _interval(item: Evaluation, set_name: str, split: str, metric: str) -> Cell:
    group = item.group(set_name, split)
    if group is None or not group.scores[metric].known:
        return Cell(NONE)
    mean, low, high = (number(Score(value, value, value), metric) for value in group.scores[metric])
    return Cell(mean, f" [{low}, {high}]")


def card_title(evaluation: Evaluation) -> str:
    """Return the card's heading, such as `UP-LVSM, re10k, 224 px`."""
    return f"{label(evaluation.model)}, {evaluation.dataset}, {evaluation.resolution} px"


def metadata(evaluation: Evaluation, licence: str) -> str:
    """Return the card's head in YAML, as the hub reads it: every score of the model itself that was computed."""
    from huggingface_hub import EvalResult, ModelCardData  # takes half a second, and the report needs none of it

    scores = [
        EvalResult(
            task_type="image-to-image",
            task_name="Novel view synthesis",
            dataset_type=evaluation.dataset,
            dataset_name=f"{evaluation.dataset}, {place_of(group.set, group.split)}",
            dataset_config=group.set,
            dataset_split=group.split,
            metric_type=metric,
            metric_name=f"{metric.upper()}, 95 % interval {score.low:.4g} to {score.high:.4g}",
            metric_value=float(number(score, metric)),
        )
        for group in evaluation.groups
        for metric, score in group.scores.items()
        if group.model == evaluation.model and score.known
    ]
    return ModelCardData(
        license=licence,
        library_name="novelview",
        pipeline_tag="image-to-image",
        tags=["novel-view-synthesis", evaluation.config["model"]["name"]],
        model_name=card_title(evaluation),
        eval_results=scores,
    ).to_yaml()
