"""Margins of finished evaluations over the trivial baselines and over swapped poses, appended to results/{name}.csv.

python bench/margins.py NAME EVALUATION_FOLDER...   (several runs, e.g. of other seeds, make several rows)"""

import argparse
from pathlib import Path
from typing import Any

from common import append

from novelview.files import read_json

BASELINES = ("nearest_context", "mean_context", "mean_colour")


def rows_of(folder: Path) -> list[dict[str, object]]:
    """Return a row a set and split of an evaluation: PSNR of the model and each baseline, and differences [dB]."""
    summary = read_json(folder / "summary.json")
    places = sorted({(group["set"], group["split"]) for group in summary["groups"]})
    return [_row(summary, *place) for place in places]


def _row(summary: dict[str, Any], set_: str, split: str) -> dict[str, object]:
    here = [group for group in summary["groups"] if (group["set"], group["split"]) == (set_, split)]
    psnr = {group["model"]: group["psnr"]["mean"] for group in here}
    model = summary["model"]
    best = max(BASELINES, key=lambda name: psnr[name])
    swapped = psnr.get(f"{model}_swapped_pose")
    return {
        "model": model,
        "resolution": summary["resolution"],
        "dataset": summary["dataset"],
        "seed": summary["weights"]["config"]["train"]["seed"],
        "digest": summary["weights"]["digest"],
        "set": set_,
        "split": split,
        "targets": next(group["count"] for group in here if group["model"] == model),
        "psnr": round(psnr[model], 3),
        **{name: round(psnr[name], 3) for name in BASELINES},
        "best_baseline": best,
        "over_best": round(psnr[model] - psnr[best], 3),
        "low": round(_paired(summary, best, set_, split)["low"], 3),
        "high": round(_paired(summary, best, set_, split)["high"], 3),
        "over_mean_context": round(psnr[model] - psnr["mean_context"], 3),
        "over_swapped_pose": "" if swapped is None else round(psnr[model] - swapped, 3),
    }


def _paired(summary: dict[str, Any], baseline: str, set_: str, split: str) -> dict[str, float]:
    """Return the paired difference against a baseline with its interval."""
    found = (row for row in summary["paired"] if (row["baseline"], row["set"], row["split"]) == (baseline, set_, split))
    return next(found)["psnr"]


def main() -> None:
    """Append the margins of all given evaluations."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("folders", nargs="+", type=Path)
    arguments = parser.parse_args()
    append(arguments.name, [row for folder in arguments.folders for row in rows_of(folder)])


if __name__ == "__main__":
    main()
