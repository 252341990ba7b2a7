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

ADOPTED = "published"  # the training subset that adopted weights name
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


def training_words(config: dict[str, Any], before: Sequence[dict[str, Any]] = ()) -> str:
    """Return how weights were trained, out of their header and those of the phases before.

    The header of released weights has all phases: `5,000 steps of 24 scenes at 112 px, then 1,500 steps of 12 scenes at
    252 px, on rooms-mini at scale mini`; scenes are those of one process.
    """
    phases = config.get("released", {}).get("phases") or [_phase(one) for one in (*before, config)]
    words = (
        f"{one['steps']:,} steps of {one['batch_size'] * one['grad_accum']} scenes at {one['size']} px"
        for one in phases
    )
    return f"{', then '.join(words)}, on {config.get('dataset', '?')} at scale {config.get('scale', '?')}"


def _phase(config: dict[str, Any]) -> dict[str, Any]:
    train, views = config.get("train", {}), config.get("views", {})
    size = f"{views.get('image_size', '?')}" + (f"x{views['image_width']}" if views.get("image_width") else "")
    return {**{key: train.get(key, 1) for key in ("steps", "batch_size", "grad_accum")}, "size": size}


def about_released(folders: Sequence[Path], own: list[Evaluation], study: Study, scale: str) -> dict[str, Any]:
    """Return what the template prints of released checkpoints: empty where the study shows none at this scale.

    own: the study's evaluations. Keys: none_yet, or kinds (a heading, a note, lines and pictures for each), tables,
    videos of both, and comparisons, which take the place of the page's own.
    """
    if not folders:
        return {"none_yet": NONE_YET if scale in study.showcase else "", "kinds": []}
    found = read_released(folders)
    return {
        "none_yet": "",
        "kinds": [
            _kind("Released", RELEASED, found, found),
            _kind("From scratch", SCRATCH.get(scale, HERE), finest(own), own)
            if all(_origin(item, own) == OWN for item in own)
            else _kind("This study's own", HERE, finest(own), own),
        ],
        "tables": [table for name, splits in sections(found) for table in _tables(found, name, splits)],
        "videos": page.video_blocks(found, _trained_on) + page.video_blocks(own, lambda item: _where(item, own, scale)),
        "comparisons": page.comparison_data([*found, *own], lambda item: _who(item, own)),
    }


def _who(item: Evaluation, own: list[Evaluation]) -> str:
    """Return a model's name on the page, with where its weights are from unless the name says so itself."""
    return f"{page.who(item)}, {_origin(item, own)}" if item in own else page.who(item)


def _trained_on(item: Evaluation) -> str:
    return f"{page.who(item)}, trained on {_header(item).get('dataset', '?')}"


def _where(item: Evaluation, own: list[Evaluation], scale: str) -> str:
    fresh = scale == "demo" and _origin(item, own) == OWN
    return _who(item, own) + (", two CPU cores, minutes" if fresh else "")


def _origin(item: Evaluation, own: list[Evaluation]) -> str:
    if _header(item).get("adopted"):
        return "adopted"
    return "from adopted weights" if any(one.get("adopted") for one in _before(item, own)) else OWN


def _before(item: Evaluation, every: list[Evaluation]) -> list[dict[str, Any]]:
    """Return the headers of a run's earlier phases: those of the smaller sizes, from whose weights it started."""
    own = [one for one in every if (one.model, one.dataset) == (item.model, item.dataset)]
    chain = [one for one in own if one.subset in (item.subset, ADOPTED) and one.resolution < item.resolution]
    return [_header(one) for one in sorted(chain, key=lambda one: one.resolution)]


def _header(item: Evaluation) -> dict[str, Any]:
    return item.summary.get("weights", {}).get("config", {})


def _tables(found: list[Evaluation], set_name: str, splits: list[str]) -> list[dict[str, Any]]:
    return page.table_blocks([score_table(found, set_name, splits), margin_table(found, set_name, splits)])


def _kind(title: str, note: str, found: list[Evaluation], every: list[Evaluation]) -> dict[str, Any]:
    return {"title": title, "note": note, "lines": [_line(item, every) for item in found], "rows": _rows(found)}


def _line(item: Evaluation, every: list[Evaluation]) -> str:
    """Return what a model is and how often it won, in one sentence."""
    config, origin = _header(item), _origin(item, every)
    trained = {OWN: training_words(config, _before(item, every)), "adopted": "not trained here"}
    how = trained.get(origin) or f"{origin}, {training_words(config)}"
    tally = page.tally([one for one in statements([item]) if one.about == "baseline"])
    return (
        f"{page.who(item)}: {how}; {item.summary.get('parameters', 0):,} parameters; given beside the context views: "
        f"{given(item)}. Against the best trivial baseline: {tally}."
    )


def _rows(found: list[Evaluation]) -> list[list[dict[str, str]]]:
    """Return up to ROWS target views: contexts, target, the copy of the nearest context and every model's render."""
    kept = [item for item in found if (item.folder / "gallery.safetensors").is_file()]
    lined_up = shared_samples([read_gallery(item) for item in kept])
    count = min(ROWS, len(lined_up))
    return [_row(kept, lined_up[int((turn + 0.5) * len(lined_up) / count)]) for turn in range(count)]


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
