"""What the numbers say, in sentences: every model against its best trivial baseline, losses as plainly as wins."""

from dataclasses import dataclass

from novelview.config.schema import Resolution
from novelview.figures.results import Evaluation, Margin, Score, sections
from novelview.figures.style import SWAPPED, label, place_of

BASELINE_WORDS = {
    "nearest_context": "copying the nearest context view",
    "mean_context": "the mean of the context views",
    "mean_colour": "the contexts' mean colour",
}


@dataclass(frozen=True)
class Statement:
    """A sentence about one model on one split of one set.

    verdict: win, tie or loss; about: baseline (the best trivial one) or pose (its own against another target's).
    """

    text: str
    verdict: str
    about: str
    set: str
    split: str
    resolution: Resolution


def verdict(score: Score) -> str:
    """Call a paired difference a win or a loss only where its interval excludes 0."""
    if score.low > 0:
        return "win"
    return "loss" if score.high < 0 else "tie"


def difference(score: Score) -> str:
    """Return `+1.23 dB [0.98, 1.47]`, with a true minus sign."""
    return plain_difference(score).replace(" [", " dB [")


def plain_difference(score: Score) -> str:
    """Return `+1.23 [0.98, 1.47]`, with true minus signs."""
    low, high = (f"{bound:.2f}".replace("-0.00", "0.00") for bound in (score.low, score.high))
    mean = f"{score.mean:+.2f}".replace("-0.00", "+0.00")
    return f"{mean} [{low}, {high}]".replace("-", "−")


def statements(evaluations: list[Evaluation]) -> list[Statement]:
    """Return a sentence for every model, resolution, set and split, then the ones on swapped poses."""
    found = [
        _against_baseline(evaluation, margin)
        for name, splits in sections(evaluations)
        for evaluation in evaluations
        for split in splits
        if (margin := evaluation.margin(name, split))
    ]
    swapped = [
        _against_swapped(evaluation, margin)
        for evaluation in evaluations
        for margin in evaluation.margins
        if margin.model == evaluation.model and margin.baseline == evaluation.model + SWAPPED
    ]
    return found + swapped


def _against_baseline(evaluation: Evaluation, margin: Margin) -> Statement:
    kind = verdict(margin.score)
    words = {"win": "over", "loss": "against", "tie": "against"}[kind]
    what = f"{difference(margin.score)} {words} {BASELINE_WORDS[margin.baseline]}"
    return _statement(evaluation, margin, what, "baseline")


def _against_swapped(evaluation: Evaluation, margin: Margin) -> Statement:
    return _statement(evaluation, margin, f"{difference(margin.score)} over another target's pose", "pose")


def _statement(evaluation: Evaluation, margin: Margin, what: str, about: str) -> Statement:
    who = f"{label(evaluation.model)} at {evaluation.resolution} px"
    text = f"{who}, {place_of(margin.set, margin.split)}: {what}"
    return Statement(text, verdict(margin.score), about, margin.set, margin.split, evaluation.resolution)
