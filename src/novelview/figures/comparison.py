"""Published rows that belong beside an evaluation, and the line that says what differs."""

from dataclasses import dataclass

from novelview.config.schema import Study
from novelview.evaluation.published import PublishedRow, protocol, published
from novelview.figures.results import Evaluation


@dataclass(frozen=True)
class Reference:
    """A published method: where its numbers are from, on what, and split -> (PSNR, SSIM, LPIPS) as printed."""

    method: str
    source: str
    scores: dict[str, tuple[str, str, str]]


def references(study: Study, model: str) -> list[Reference]:
    """Return the published main results of `model` for a study; raises ConfigError for an unknown paper."""
    if study.published is None:
        return []
    groups: dict[tuple[str, str], dict[str, tuple[str, str, str]]] = {}
    for row in published(study.published, table="main", model=model):
        where = f"{row.dataset}, {row.resolution} px ({row.grade} source)"
        groups.setdefault((row.method, where), {})[str(row.split)] = _printed(row)
    return [Reference(method, where, scores) for (method, where), scores in groups.items()]


def _printed(row: PublishedRow) -> tuple[str, str, str]:
    digits = {"psnr": 2, "ssim": 3, "lpips": 3}
    values = [(getattr(row, metric), places) for metric, places in digits.items()]
    psnr, ssim, lpips = ("n/a" if value is None else f"{value:.{places}f}" for value, places in values)
    return psnr, ssim, lpips


def protocol_notes(study: Study, evaluations: list[Evaluation]) -> tuple[str, ...]:
    """Return how the published and our numbers were measured, and what differs between them."""
    measured = dict.fromkeys(str(item.summary["protocol"]) for item in evaluations if "protocol" in item.summary)
    ours = f"Ours: {' '.join(measured)}"
    if study.published is None:
        return "No published rows exist for this study.", ours
    rows = [row for item in evaluations for row in published(study.published, table="main", model=item.model)]
    return f"Published: {protocol(study.published)}", ours, _differences(rows, evaluations)


def _differences(rows: list[PublishedRow], evaluations: list[Evaluation]) -> str:
    theirs = sorted(
        {f"{row.dataset} at {row.resolution} px, {row.train_scenes or '?'} training scenes" for row in rows}
    )
    own = dict.fromkeys(f"{item.dataset} at {item.resolution} px" for item in evaluations)
    same = {f"re10k at {row.resolution} px" for row in rows if row.dataset == "RealEstate10K"} & set(own)
    verdict = "the rows of the same data and size may be compared" if same else "the rows are not comparable in level"
    return f"What differs: published {'; '.join(theirs) or 'nothing'}; ours {', '.join(own)}: {verdict}."
