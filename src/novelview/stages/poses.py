"""Stage `poses`: a data set with other cameras; `python -m novelview.stages.poses dataset=NAME poses=colmap|vggt`."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from novelview.config.digest import resolved
from novelview.config.stages import PosesStage
from novelview.errors import ConfigError
from novelview.files import MANIFEST, file_entries, locating, write_json
from novelview.scenes.chunks import read_raw
from novelview.scenes.estimation.estimate import Colmap, Estimator, Given
from novelview.scenes.estimation.replace import Replacement
from novelview.stages.cli import run_stage
from novelview.timebox import TimeBox, resuming_folder

logger = logging.getLogger(__name__)


def poses(cfg: PosesStage) -> None:
    """Fill {io.out} with the data set of {io.raw} under estimated cameras, and poses.json; manifest.json comes last.

    Everything is made in a sibling folder that takes the final name when it is complete. Estimates are kept scene by
    scene in `estimates/` beside it, so a stopped run goes on where it was. Raises NovelviewError, one line, when
    nothing of the data set got cameras, or the weights of the estimator are not there; BoxEnded when the time box is
    over, after one new estimate at least.
    """
    box = TimeBox.of(cfg.runtime)
    out = Path(cfg.io["out"]).expanduser()
    raw = read_raw(Path(cfg.io["raw"]).expanduser())
    if out.resolve() in (raw.folder.resolve(), raw.root.resolve()):
        raise ConfigError(f"io.out={out}: is the folder of the data set itself; choose another")
    estimates = out.absolute().parent / "estimates"
    run = Replacement(raw, estimator(cfg), cfg, estimates, box)
    with locating(out), resuming_folder(out) as (folder, _):
        extra = run.write(folder)
        write_json(folder / MANIFEST, {"files": file_entries(folder), "source": resolved(cfg), **extra})


def estimator(cfg: PosesStage) -> Estimator:
    """Return what estimates the cameras."""
    node: Any = cfg.poses
    if node.kind == "colmap":
        return Colmap(node)
    if node.kind == "vggt":
        from novelview.devices import pick_device
        from novelview.models.vggt.estimator import Vggt

        return Vggt(node, pick_device(cfg.runtime.device))
    return Given()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stage; returns the exit status."""
    return run_stage("poses", poses, argv)


if __name__ == "__main__":
    sys.exit(main())
