"""The model card of published weights, written from the evaluation's summary alone."""

from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, StrictUndefined

from novelview.config.checkpoints import FOLDER
from novelview.figures.released import training_words
from novelview.figures.results import METRICS, Evaluation, Score, sections
from novelview.figures.results_table import NONE, given, margin_table, number, resampled, score_table, split_names
from novelview.figures.statements import statements
from novelview.figures.style import label, place_of, title_of
from novelview.figures.tables import Cell, Row, Table, to_markdown

TEXT = """\
---
{{ metadata }}
---

# {{ title }}

{{ name }} renders new views of a scene from a few pictures of it. Pictures are {{ size }} px; it has
{{ "{:,}".format(summary.parameters) }} parameters.

**Given** to render a target view, beside the pictures of the context views and the intrinsics of every view:
**{{ given }}**.
{%- if summary.given.target_images %} Its camera is estimated from the target picture itself, so these are scores of a
model that has seen that picture.{% endif %}
{%- if released %}

`model.safetensors` holds the trained weights rounded to {{ released.dtype }}; loading makes them float32 again. Every
score on this card was measured with the rounded ones.{% endif %}
{%- if config.scale == "demo" and not adopted %}

Trained at demo scale, minutes on two CPU cores and a small fraction of the published size: it shows that the whole path
works and is of no other use.{% endif %}

## Loading

```python
from novelview.models.pretrained import load_pretrained

model, config = load_pretrained("{{ address }}"){% if repo or not released %}  # revision=... pins a commit{% endif %}
render = model(context, target).images  # novelview.scenes.batch.Views in, [b v 3 h w] in [0, 1] out
```

`config.json` is the resolved training configuration; the header of `model.safetensors` holds the same.

{{ tables }}
## In words

{% for statement in statements -%}
* {{ statement.text }} ({{ statement.verdict }})
{% endfor %}
{{ summary.protocol }}

## Training, data and licence

{% if adopted -%}
Not trained here: adopted from `{{ adopted.origin or adopted.file }}` (SHA-256 {{ adopted.sha256 }}), published under:
{{ adopted.licence or "terms not recorded" }}.
{%- if adopted.citation %} Please cite: {{ adopted.citation }}.{% endif %}
{%- else -%}
Trained on `{{ config.dataset }}`, subset {{ config.subset }}, phase {{ config.phase }}: {{ train.steps }} steps of
{{ train.batch_size }} scenes a process, learning rate {{ train.lr }}, seed {{ train.seed }}. The data keep their own
terms.
{%- if released %} In all: {{ trained }}.{% endif %}
{%- endif %}

Licence of these weights: {{ licence }}.

## Where the numbers come from

Weights: SHA-256 `{{ summary.weights.sha256 }}`
{%- if released %} (rounded from `{{ released.sha256 }}`){% endif %}, training
configuration `{{ summary.weights.digest }}`; evaluation
configuration `{{ summary.digest }}`; {{ versions }}. A program wrote every number above from `evaluation/summary.json`,
which lies beside this card, with one row a target image in `evaluation/rows.csv`.
"""


def model_card(evaluation: Evaluation, licence: str, repo: str | None) -> str:
    """Return README.md: metadata with every score, then what it is, needs, scores, was trained on, and how to load it.

    licence: identifier of the hub, "other" where none is chosen; repo: owner/name it goes to, None when not known yet.
    """
    summary = evaluation.summary
    config = summary["weights"]["config"]
    tables = [
        table([evaluation], name, splits)
        for name, splits in sections([evaluation])
        for table in (score_table, interval_table, margin_table)
    ]
    facts = {
        "metadata": metadata(evaluation, licence),
        "title": title(evaluation),
        "name": label(evaluation.model),
        "size": evaluation.resolution,
        "given": given(evaluation),
        "tables": to_markdown(tables),
        "statements": statements([evaluation]),
        "versions": ", ".join(f"{name} {version}" for name, version in summary["versions"].items()),
        "adopted": _adopted(config),
        "released": config.get("released"),
        "trained": training_words(config),
        "address": repo or address(config),
        "train": config["train"],
    }
    template = Environment(undefined=StrictUndefined, keep_trailing_newline=True).from_string(TEXT)
    return template.render(**facts, summary=summary, config=config, licence=licence, repo=repo)


def address(config: dict[str, Any]) -> str:
    """Return what loads the weights: the folder of released ones, a placeholder for those that go to the hub."""
    return f"{FOLDER}/{config['released']['name']}" if config.get("released") else "owner/name"


def interval_table(evaluations: list[Evaluation], set_name: str, splits: Sequence[str]) -> Table:
    """Return each model's own scores on one set with their intervals, a row a metric that was computed."""
    rows = [
        Row((label(item.model), metric), tuple(_interval(item, set_name, split, metric) for split in splits))
        for item in evaluations
        for metric in METRICS
        if any(group.scores[metric].known for group in item.groups if group.model == item.model)
    ]
    title, note = f"Intervals, {title_of(set_name)}", f"95 % bootstrap intervals over {resampled(evaluations)}."
    return Table(title, ("Method", "Metric"), split_names(splits), tuple(rows), (note,))


def _interval(item: Evaluation, set_name: str, split: str, metric: str) -> Cell:
    group = item.group(item.model, set_name, split)
    if group is None or not group.scores[metric].known:
        return Cell(NONE)
    score = group.scores[metric]
    low, high = (number(Score(bound, bound, bound), metric) for bound in (score.low, score.high))
    return Cell(number(score, metric), f" [{low}, {high}]")


def _adopted(config: dict[str, Any]) -> dict[str, Any] | None:
    known = config.get("adopted")
    return known and {"origin": None, "licence": None, "citation": None, **known}


def title(evaluation: Evaluation) -> str:
    """Return the card's heading, such as `UP-LVSM, re10k, 224 px`."""
    return f"{label(evaluation.model)}, {evaluation.dataset}, {evaluation.resolution} px"


def metadata(evaluation: Evaluation, licence: str) -> str:
    """Return the card's head in YAML, as the hub reads it."""
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        license=licence,
        library_name="novelview",
        pipeline_tag="image-to-image",
        tags=["novel-view-synthesis", evaluation.summary["weights"]["config"]["model"]["name"]],
        model_name=title(evaluation),
        eval_results=results(evaluation),
    )
    return data.to_yaml()


def results(evaluation: Evaluation) -> list[Any]:
    """Return the model's own scores as the hub's metadata has them, metrics that were not computed left out."""
    from huggingface_hub import EvalResult

    own = [group for group in evaluation.groups if group.model == evaluation.model]
    return [
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
        for group in own
        for metric, score in ((metric, group.scores[metric]) for metric in METRICS)
        if score.known
    ]
