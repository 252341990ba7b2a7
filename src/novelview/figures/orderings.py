"""Whether the systems' slopes come in the published order: pair by pair, said in words that the intervals decide."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, groupby

from novelview.evaluation.published import PublishedRow
from novelview.evaluation.scores import bounds
from novelview.figures.results import Score
from novelview.figures.slopes import Line
from novelview.figures.statements import difference, plain_difference, verdict
from novelview.figures.style import label, title_of

VERDICTS = {"win": "agrees", "loss": "disagrees", "tie": "undecided"}
HEADS = {"agrees": "Agree", "disagrees": "Disagree", "undecided": "Undecided, the interval holds 0"}
CAVEAT = (
    "Intervals are bootstraps over test scenes that all subsets and systems meet with the same draws; how much another "
    "training seed, other rooms or more training would change a slope is not in them."
)


@dataclass(frozen=True)
class Pair:
    """Two systems of which the published slope of the first is the larger.

    published: by how much [dB per four times the scenes]; ours: our difference with its interval; verdict: agrees where
    the interval lies above 0, disagrees where it lies below, undecided where it holds 0.
    """

    first: str
    second: str
    published: float
    ours: Score
    verdict: str

    @property
    def text(self) -> str:
        """`UP-LVSM over PT-LVSM +0.91 dB [0.50, 1.31], published +0.91`."""
        own = difference(self.ours)
        return f"{label(self.first)} over {label(self.second)} {own}, published {self.published:+.2f}"


def pairs(own: Sequence[Line], rows: Sequence[PublishedRow]) -> list[Pair]:
    """Return every pair of lines with different published slopes, largest published difference first.

    own: lines of one set, split and resolution; only those judged on the same images after the same subsets are paired.
    """
    gains = _gains(rows)
    known = sorted((line for line in own if line.model in gains), key=lambda line: -gains[line.model])
    found = [
        _pair(first, second, gains[first.model] - gains[second.model])
        for first, second in combinations(known, 2)
        if gains[first.model] > gains[second.model] and (first.images, first.scenes) == (second.images, second.scenes)
    ]
    return sorted(found, key=lambda pair: -pair.published)


def _gains(rows: Sequence[PublishedRow]) -> dict[str, float]:
    return {row.model: row.psnr_gain_per_4x for row in rows if row.model and row.psnr_gain_per_4x is not None}


def _pair(first: Line, second: Line, gain: float) -> Pair:
    ours = Score(first.slope.mean - second.slope.mean, *bounds(first.drawn - second.drawn))
    return Pair(first.model, second.model, gain, ours, VERDICTS[verdict(ours)])


def orderings(found: Sequence[Line], rows: Sequence[PublishedRow]) -> list[str]:
    """Return paragraphs: the published order, then for each set and resolution which pairs agree with it and which not.

    rows: published gains per four times the scenes; without two systems of ours among them there is nothing to say.
    """
    if len({line.model for line in found} & _gains(rows).keys()) < 2:
        return []
    places = sorted({(line.resolution, line.set, line.split) for line in found}, key=lambda place: place[0])
    lines = [[line for line in found if (line.resolution, line.set, line.split) == place] for place in places]
    return [_published(rows, found), *(_said(own, pairs(own, rows)) for own in lines), CAVEAT]


def _published(rows: Sequence[PublishedRow], found: Sequence[Line]) -> str:
    order = sorted(rows, key=lambda row: -(row.psnr_gain_per_4x or 0))
    listed = ", ".join(f"{row.method} {row.psnr_gain_per_4x:+.2f}" for row in order)
    ours = dict.fromkeys(line.model for line in found)
    stand = [f"{label(row.model)} stands for {row.method}" for row in order if row.model in ours and row.note]
    names = {row.model for row in order}
    left = [label(model) for model in ours if model not in names]
    left += [row.method for row in order if row.model not in ours]
    text = f"Published gains from four times the scenes, in dB: {listed}."
    text += f" Here {', '.join(stand)}." if stand else ""
    return text + (f" Not compared, because one of the two slopes is missing: {', '.join(left)}." if left else "")


def _said(own: Sequence[Line], found: Sequence[Pair]) -> str:
    head = f"{title_of(own[0].set).capitalize()}, {own[0].resolution} px, split {own[0].split}"
    if not found:
        return f"{head}: no two systems were trained and judged alike, so no order can be compared."
    ranked = sorted(own, key=lambda line: -line.slope.mean)
    order = ", ".join(f"{label(line.model)} {plain_difference(line.slope).partition(' ')[0]}" for line in ranked)
    counts = {name: sum(pair.verdict == name for pair in found) for name in HEADS}
    tally = f"pairs of systems in the published order: {counts['agrees']} of {len(found)}"
    tally += f", in the opposite one: {counts['disagrees']}, undecided: {counts['undecided']}"
    by_verdict = sorted(found, key=lambda pair: list(HEADS).index(pair.verdict))
    groups = groupby(by_verdict, key=lambda pair: pair.verdict)
    listed = [f"{HEADS[name]}: {'; '.join(pair.text for pair in group)}." for name, group in groups]
    return f"{head}: {order}; {tally}. {' '.join(listed)}"
