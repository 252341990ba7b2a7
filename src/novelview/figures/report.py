"""The report of a study: one HTML file that needs no other file and no network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from novelview.config.schema import Study
from novelview.errors import DataError
from novelview.figures import page
from novelview.figures.curves import read_curves
from novelview.figures.depth_table import depth_rows
from novelview.figures.gallery import finest
from novelview.figures.geometry_table import geometry_tables
from novelview.figures.posefree_table import posefree_tables
from novelview.figures.provenance import provenance
from novelview.figures.qualitative import ERROR_LIMIT
from novelview.figures.released import ADOPTED, about_released, read_released
from novelview.figures.results import Evaluation, read_evaluations, sections
from novelview.figures.results_table import resampled, results_tables
from novelview.figures.scaling_table import scaling_rows, slopes_in_words
from novelview.figures.statements import Statement, difference, statements, verdict
from novelview.figures.style import place_of
from novelview.files import write_text

BLURRY = (
    "The models here are tiny and train for minutes on two processor cores: a render is roughly one or two colours "
    "a 14-pixel patch. The differences in PSNR are measured all the same; sharp pictures need the larger scales."
)
LEAD = (
    "Feed-forward models render a view of a scene from a few context pictures in one pass. This page shows what each "
    "trained model reached, against trivial baselines and beside published numbers where there are any, wins and "
    "losses alike."
)
SECTIONS = (
    ("released", "Released"),
    ("statements", "Findings"),
    ("results", "Results"),
    ("compare", "Compare"),
    ("videos", "Videos"),
    ("gaps", "Gaps"),
    ("views", "Views"),
    ("posefree", "Poses"),
    ("depth", "Depth"),
    ("scaling", "Scaling"),
    ("qualitative", "Pictures"),
    ("depth_maps", "Depth maps"),
    ("attention", "Attention"),
    ("camera_paths", "Cameras"),
    ("training_curves", "Training"),
    ("protocol", "Protocol"),
    ("reading", "How to read"),
    ("provenance", "Provenance"),
)
VIDEO_NOTE = (
    "Left and right the first and the last context view, in the middle the render along a path through the context "
    "cameras and back. A model that takes no poses travels between the cameras it estimated itself."
)


def write_report(
    folders: list[Path],
    logs: list[Path],
    figures: Path,
    out: Path,
    study: Study,
    scale: str,
    showcase: Sequence[Path] = (),
) -> None:
    """Write the report of the evaluations in `folders` to `out`.

    folders: evaluation folders; logs: training logs; figures: the folder of the finished figures; showcase: evaluation
    folders of released checkpoints. Raises DataError for a missing or damaged input, one line.
    """
    if not figures.is_dir():
        raise DataError(f"{figures}: no folder of figures here; run the figures stage first")
    every = read_evaluations(folders, "report", subsets=True)
    evaluations = read_evaluations(folders, "report")
    environment = Environment(
        loader=PackageLoader("novelview.figures"),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    content = report_content(evaluations, logs, figures, study, scale)
    content["released"] = about_released(showcase, evaluations, study, scale)
    if content["released"]["kinds"]:
        content |= {"videos": [], "comparisons": content["released"]["comparisons"]}
        shown = read_released(showcase)
        content["tiles"] += tiles(shown, statements(shown))[1:]
    if study.poses.get(scale):
        content["tables"] += page.table_blocks(posefree_tables(folders, study, scale))
    if len({item.subset for item in every} - {ADOPTED}) > 1:
        content["tables"] += page.table_blocks([scaling_rows(every, study)])
        content["orderings"] = slopes_in_words(every, study)
    content["plys"] = page.ply_links(evaluations, out.parent)
    content["sections"] = _present(content)
    write_text(out, environment.get_template("report.html.j2").render(content))


def report_content(
    evaluations: list[Evaluation], logs: list[Path], figures: Path, study: Study, scale: str
) -> dict[str, Any]:
    """Return everything the template prints."""
    found = statements(evaluations)
    tables = results_tables(evaluations, study)
    further = [depth_rows(evaluations, study)] if "depth_table" in study.tables else []
    further += geometry_tables(evaluations) if "geometry_table" in study.tables else []
    content = {
        "title": study.title or study.name,
        "study": study.name,
        "scale": scale,
        "lead": LEAD,
        "blurry": BLURRY if scale == "demo" and not all(item.summary.get("geometry") for item in evaluations) else "",
        "tiles": tiles(evaluations, found),
        "statements": page.statement_groups(found),
        "tables": page.table_blocks([*tables, *further]),
        "comparisons": page.comparison_data(evaluations),
        "error_limit": ERROR_LIMIT,
        "videos": page.video_blocks(evaluations),
        "video_note": VIDEO_NOTE,
        "figures": page.figure_blocks(figures),
        "inputs": page.input_rows(evaluations),
        "plys": [],
        "orderings": [],
        "protocol": tables[-1].notes,
        "resampled": resampled(evaluations),
        "sets_note": page.sets_note(evaluations),
        "provenance": provenance(evaluations, read_curves(logs)),
    }
    return content


def _present(content: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the sections that the page has, for its navigation."""
    names = {"statements", "results", "protocol", "reading", "provenance"}
    names |= {"released"} if content["released"]["kinds"] else set()
    names |= {"compare"} if content["comparisons"] else set()
    names |= {"videos"} if content["videos"] else set()
    names |= {figure["name"] for figure in content["figures"]}
    return [section for section in SECTIONS if section[0] in names]


def tiles(evaluations: list[Evaluation], found: Sequence[Statement]) -> list[dict[str, str]]:
    """Return the page's first glance: a tally, and each model's difference on its widest split of the first set."""
    first, splits = sections(evaluations)[0]
    against = [item for item in found if item.about == "baseline"]
    boxes = [{"value": page.tally(against), "text": "against the best trivial baseline, all splits", "tone": ""}]
    for item in finest(evaluations):
        margin = item.margin(first, splits[-1])
        if margin:
            place = place_of(first, splits[-1])
            text = f"{page.who(item)}, {place}: against the best trivial baseline"
            value = difference(margin.score).partition(" [")[0]
            boxes.append({"value": value, "text": text, "tone": verdict(margin.score)})
    return boxes
