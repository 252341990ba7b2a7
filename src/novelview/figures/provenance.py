"""Where numbers come from: digests, seeds, durations and program versions, and never a path of this machine."""

from typing import Any

from novelview.figures.curves import Curve
from novelview.figures.page import training_seconds, who
from novelview.figures.results import Evaluation

UNKNOWN = "unknown"
COLUMNS = (
    "Model",
    "Parameters",
    "Weights (SHA-256)",
    "Training (digest)",
    "Evaluation (digest)",
    "Seed",
    "Steps",
    "Batch",
    "Trained for",
)


def provenance(evaluations: list[Evaluation], curves: list[Curve]) -> dict[str, Any]:
    """Return the provenance table (columns, rows) and a line of program versions."""
    versions: dict[str, str] = {}
    for item in evaluations:
        versions |= item.summary.get("versions", {})
    listed = ", ".join(f"{name} {versions[name]}" for name in sorted(versions))
    return {
        "columns": COLUMNS,
        "rows": [_row(item, curves) for item in evaluations],
        "versions": f"Programs: {listed}." if listed else "",
    }


def _row(evaluation: Evaluation, curves: list[Curve]) -> list[str]:
    summary = evaluation.summary
    weights = summary.get("weights", {})
    train = weights.get("config", {}).get("train", {})
    parameters = summary.get("parameters")
    return [
        who(evaluation),
        f"{parameters:,}" if parameters else UNKNOWN,
        str(weights.get("sha256", UNKNOWN))[:12],
        str(weights.get("digest", UNKNOWN)),
        str(summary.get("digest", UNKNOWN)),
        *(str(train.get(key, UNKNOWN)) for key in ("seed", "steps", "batch_size")),
        duration(training_seconds(curves, evaluation)),
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
