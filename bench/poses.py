"""How good estimated cameras are: a row a record of stage `poses`; `python bench/poses.py data/*/raw/poses.json`."""

import sys
from importlib.metadata import version
from pathlib import Path

from common import append

from novelview.files import read_json

COLUMNS = ("scenes", "placed_scenes", "asked_frames", "placed_frames", "rotation_deg", "relative_rotation_deg")
COLUMNS += ("translation_over_spread", "reprojection_px", "seconds")


def row(path: Path) -> dict[str, object]:
    """Return what a record says in numbers, with the largest errors of a frame."""
    content = read_json(path)
    scenes = [scene for scene in content["scenes"].values() if "rotation_deg" in scene]
    largest = {
        f"largest_{name}": max((max(scene[name]) for scene in scenes), default=None)
        for name in ("rotation_deg", "relative_rotation_deg")
    }
    focal = [abs(scene["focal"] - 1) for scene in scenes]
    far = {"focal_off_by_a_tenth": sum(error > 0.1 for error in focal)}  # scenes
    head = {"dataset": content["dataset"], "estimator": content["estimator"], "pycolmap": version("pycolmap")}
    return head | {name: content["summary"][name] for name in COLUMNS} | largest | far


if __name__ == "__main__":
    append("poses", [row(Path(word)) for word in sys.argv[1:]])
