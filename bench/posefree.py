"""What estimated cameras cost: scores of evaluations beside each other; `python bench/posefree.py FOLDER FOLDER ...`.

Folders of evaluations of the same weights on given and on estimated cameras; the targets all of them have are scored.
"""

import sys
from pathlib import Path

from common import append

from novelview.figures.posefree import GIVEN, HEADER, difference, given_of, judgements, places, posed, records
from novelview.figures.results import Results


def main(folders: list[Path]) -> None:
    """Append scores, and the paired differences to the given cameras as metric `psnr_minus_given`."""
    found = judgements(Results(folders))
    rows = [dict(zip(HEADER, line, strict=True)) for line in records(found)]
    for one in (item for item in found if posed(item) and item.cameras != GIVEN):
        for name, splits in places(found):
            for split in splits:
                score, each = difference(one, given_of(found, one), (name, split))
                if each:
                    place = [one.model, one.resolution, one.cameras, name, split]
                    values = [*place, len(each), "psnr_minus_given", score.mean, score.low, score.high]
                    rows.append(dict(zip(HEADER, values, strict=True)))
    trained = {item.summary["weights"]["config"]["dataset"] for item in found}
    judged = {item.dataset for item in found}
    append(
        "posefree",
        [{"trained_on": "+".join(sorted(trained)), "judged_on": "+".join(sorted(judged)), **row} for row in rows],
    )


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]])
