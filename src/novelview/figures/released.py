"""Released checkpoints in the report: their scores, pictures and videos beside what was trained here, each labelled."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from novelview.config.schema import Study
from novelview.figures import page
from novelview.figures.gallery import Sample, finest, read_gallery, shared_samples
from novelview.figures.media import picture_uri
from novelview.figures.results import Evaluation, read_evaluation, sections
from novelview.figures.results_table import given, margin_table, score_table
from novelview.figures.statements import statements
from novelview.figures.style import label

OWN = "from scratch"  # what the study's own runs are called beside released ones
ROWS = 4  # target views in the section's pictures
NONE_YET = (
    "No checkpoint has been released yet, so this page shows only what was trained here: they need the GPU hour "
    "of scale=mini, which has not been run. `make mini` trains them, `snakemake release` writes them to "
    "released/, and this page then shows their pictures and videos beside these."
)
RELEASED = (
    "Trained elsewhere, as each line says, and shipped with the project. Evaluated here, on this machine, on the "
    "demo's first held-out rooms, filmed sharp and twice as large."
)
SCRATCH = {
    "demo": (
        "Trained by this very run from nothing: tiny models, minutes on two processor cores, on the demo's own rooms, "
        "whose textures are smooth. The same rooms, filmed that way, are what they are evaluated on."
    )
}
HERE = "Trained by this very run."


def read_released(folders: Sequence[Path]) -> list[Evaluation]:
    """Read the evaluations of released checkpoints, each under a label of its own: `UP-LVSM (released: uplvsm_mini)`.

    Raises DataError for a missing or damaged one.
    """
    return [_labelled(read_evaluation(folder), folder.parent.name) for folder in folders]


def _labelled(evaluation: Evaluation, name: str) -> Evaluation:
    """Return the evaluation with its model called by what was released, so that no other run has its name."""
    old, new = evaluation.model, f"{label(evaluation.model)} (released: {name})"
    tables = {
        key: [{**row, "model": new} if row["model"] == old else row for row in evaluation.summary[key]]
        for key in ("groups", "paired")
    }
    return replace(evaluation, summary={**evaluation.summary, "model": new, **tables})


def training_words(config: dict[str, Any]) -> str:
    """Return how weights were trained, out of their header, phase by phase for released ones.

    `5,000 steps of 24 scenes at 112 px, then 1,500 steps of 12 scenes at 252 px, on rooms-mini at scale mini`; scenes
    are those of one process.
    """
    train, views = config.get("train", {}), config.get("views", {})
    size = f"{views.get('image_size', '?')}" + (f"x{views['image_width']}" if views.get("image_width") else "")
    own = {**{key: train.get(key, 1) for key in ("steps", "batch_size", "grad_accum")}, "size": size}
    phases = config.get("released", {}).get("phases") or [own]
    words = (
        f"{one['steps']:,} steps of {one['batch_size'] * one['grad_accum']} scenes at {one['size']} px"
        for one in phases
    )
    return f"{', then '.join(words)}, on {config.get('dataset', '?')} at scale {config.get('scale', '?')}"


def about_released(folders: Sequence[Path], own: list[Evaluation], study: Study, scale: str) -> dict[str, Any]:
    """Return what the template prints of released checkpoints: empty where the study shows none at this scale.

    own: the study's evaluations. Keys: none_yet, or kinds (a heading, a note, lines and pictures for each), tables,
    videos and comparisons, which take the place of the page's own.
    """
    if not folders:
        return {"none_yet": NONE_YET if scale in study.showcase else "", "kinds": [], "tables": []}
    found = read_released(folders)
    best = finest(own)
    return {
        "none_yet": "",
        "kinds": [
            _kind("Released", RELEASED, found),
            _kind(OWN.capitalize(), SCRATCH.get(scale, HERE), best),
        ],
        "tables": [table for name, splits in sections(found) for table in _tables(found, name, splits)],
        "videos": page.video_blocks(found) + page.video_blocks(own, _own),
        "comparisons": page.comparison_data(
            [*found, *own], lambda item: page.who(item) if item in found else _own(item)
        ),
    }


def _own(item: Evaluation) -> str:
    return f"{page.who(item)}, {'adopted' if _header(item).get('adopted') else OWN}"


def _header(item: Evaluation) -> dict[str, Any]:
    return item.summary.get("weights", {}).get("config", {})


def _tables(found: list[Evaluation], set_name: str, splits: list[str]) -> list[dict[str, Any]]:
    return page.table_blocks([score_table(found, set_name, splits), margin_table(found, set_name, splits)])


def _kind(title: str, note: str, found: list[Evaluation]) -> dict[str, Any]:
    return {"title": title, "note": note, "lines": [_line(item) for item in found], "rows": _rows(found)}


def _line(item: Evaluation) -> str:
    """Return what a model is and how often it won, in one sentence."""
    config = _header(item)
    how = "adopted, not trained here" if config.get("adopted") else training_words(config)
    tally = page.tally([one for one in statements([item]) if one.about == "baseline"])
    return (
        f"{page.who(item)}: {how}; {item.summary.get('parameters', 0):,} parameters; given beside the context views: "
        f"{given(item)}. Against the best trivial baseline: {tally}."
    )


def _rows(found: list[Evaluation]) -> list[list[dict[str, str]]]:
    """Return up to ROWS target views: contexts, target, the copy of the nearest context and every model's render."""
    kept = [item for item in found if (item.folder / "gallery.safetensors").is_file()]
    lined_up = shared_samples([read_gallery(item) for item in kept])
    step = max(1, len(lined_up) // ROWS)
    return [_row(kept, samples) for samples in lined_up[::step][:ROWS]]


def _row(found: list[Evaluation], samples: tuple[Sample | None, ...]) -> list[dict[str, str]]:
    one = next(sample for sample in samples if sample)
    given_views = (("first context", one.context[0]), ("last context", one.context[-1]))
    fixed = [*given_views, (f"target ({one.set}, {one.split})", one.target)]
    fixed.append((f"nearest context, {one.psnr_nearest:.1f} dB", one.nearest))
    renders = [
        (f"{label(item.model)}, {sample.psnr:.1f} dB", sample.render)
        for item, sample in zip(found, samples, strict=True)
        if sample
    ]
    return [{"caption": caption, "data": picture_uri(picture)} for caption, picture in [*fixed, *renders]]
