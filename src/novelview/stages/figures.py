"""Stage `figures`: python -m novelview.stages.figures figure=NAME io.inputs=[..] io.curves=[..] io.out=STEM."""

import sys
from collections.abc import Callable
from pathlib import Path

from novelview.config.schema import Study
from novelview.config.stages import FiguresStage
from novelview.errors import ConfigError
from novelview.figures.attention import attention
from novelview.figures.camera_paths import camera_paths
from novelview.figures.depth import depth
from novelview.figures.depth_maps import depth_maps
from novelview.figures.depth_table import depth_table
from novelview.figures.gaps import gaps
from novelview.figures.geometry_table import geometry_table
from novelview.figures.posefree import posefree
from novelview.figures.posefree_table import posefree_table
from novelview.figures.qualitative import qualitative
from novelview.figures.results_table import results_table
from novelview.figures.scaling import scaling
from novelview.figures.scaling_table import scaling_table
from novelview.figures.training_curves import training_curves
from novelview.figures.views import views
from novelview.stages.cli import run_stage

FROM_EVALUATIONS: dict[str, Callable[[list[Path], Path], list[Path]]] = {
    "qualitative": qualitative,
    "attention": attention,
    "camera_paths": camera_paths,
    "gaps": gaps,
    "depth_maps": depth_maps,
}
BESIDE_PUBLISHED: dict[str, Callable[[list[Path], Path, Study], list[Path]]] = {
    "results_table": results_table,
    "depth": depth,
    "depth_table": depth_table,
    "geometry_table": geometry_table,
    "scaling": scaling,
    "scaling_table": scaling_table,
}
OTHERS = ("training_curves", "views", "posefree", "posefree_table")


def figures(cfg: FiguresStage) -> None:
    """Draw `cfg.figure` to the stem `io.out`.

    `io.inputs` are evaluation folders, `io.curves` training logs, `io.extras` further files the study has made.
    """
    stem = Path(cfg.io["out"])
    folders, logs, extras = ([Path(path) for path in cfg.io.get(key) or []] for key in ("inputs", "curves", "extras"))
    if cfg.figure in FROM_EVALUATIONS:
        FROM_EVALUATIONS[cfg.figure](folders, stem)
    elif cfg.figure == "training_curves":
        training_curves(logs, stem)
    elif cfg.figure == "posefree":
        posefree(folders, stem, extras)
    elif cfg.figure == "posefree_table":
        posefree_table(folders, stem, cfg.study, cfg.scale)
    elif cfg.figure == "views":
        views(folders, stem, extras)
    elif cfg.figure in BESIDE_PUBLISHED:
        BESIDE_PUBLISHED[cfg.figure](folders, stem, cfg.study)
    else:
        known = ", ".join([*FROM_EVALUATIONS, *OTHERS, *BESIDE_PUBLISHED])
        raise ConfigError(f"figure '{cfg.figure}' does not exist; choose one of {known}")


if __name__ == "__main__":
    sys.exit(run_stage("figures", figures))
