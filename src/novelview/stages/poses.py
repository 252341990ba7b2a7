"""Stage `poses`: a data set with other cameras; `python -m novelview.stages.poses dataset=NAME poses=colmap|vggt`."""

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from novelview.config.digest import digest, resolved
from novelview.config.stages import PosesStage
from novelview.devices import Team, pick_device, team
from novelview.errors import ConfigError
from novelview.files import MANIFEST, expanded, file_entries, locating, write_json
from novelview.scenes.chunks import RawData, read_raw
from novelview.scenes.estimation.estimate import Colmap, Estimator, Given
from novelview.scenes.estimation.replace import Replacement
from novelview.stages.cli import run_stage
from novelview.timebox import Share, TimeBox, stamp_of


def poses(cfg: PosesStage) -> None:
    """Fill {io.out} with the data set of {io.raw} under estimated cameras, and poses.json; manifest.json comes last.

    A sibling folder takes the final name when it is complete; estimates are kept scene by scene in `estimates/` beside
    it, so a stopped run goes on where it was. Under torchrun each process estimates its share of the scenes. Raises
    NovelviewError when nothing got cameras, or there are no weights; BoxEnded after one new estimate at least."""
    box = TimeBox.of(cfg.runtime)
    out = expanded(cfg.io["out"])
    raw = read_raw(expanded(cfg.io["raw"]))
    if out.resolve() in (raw.folder.resolve(), raw.root.resolve()):
        raise ConfigError(f"io.out={out}: is the folder of the data set itself; choose another")
    several = "WORLD_SIZE" in os.environ
    with team(cfg.runtime) if several else nullcontext(Team()) as ranks, locating(out):
        _replace(cfg, raw, out, Share.of(ranks), box)


def _replace(cfg: PosesStage, raw: RawData, out: Path, share: Share, box: TimeBox) -> None:
    with share.folder(out, stamp_of(digest(cfg))) as (folder, units):
        run = Replacement(raw, estimator(cfg), cfg, out.absolute().parent / "estimates", box)
        if share.world > 1 and share.meet(units, run.estimate(share)) is None:
            return
        extra = run.write(folder)
        write_json(folder / MANIFEST, {"files": file_entries(folder), "source": resolved(cfg), **extra})


def estimator(cfg: PosesStage) -> Estimator:
    """Return what estimates the cameras."""
    node: Any = cfg.poses
    if node.kind == "vggt":
        from novelview.models.vggt.estimator import Vggt

        return Vggt(node, pick_device(cfg.runtime.device, int(os.environ.get("LOCAL_RANK", 0))))
    return Colmap(node) if node.kind == "colmap" else Given()


if __name__ == "__main__":
    raise SystemExit(run_stage("poses", poses))
