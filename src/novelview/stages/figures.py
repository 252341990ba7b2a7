"""Stage `figures`: python -m novelview.stages.figures figure=NAME io.inputs=[..] io.curves=[..] io.out=STEM."""

from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from novelview.config.stages import FiguresStage
from novelview.errors import ConfigError
from novelview.figures.geometry import depth_maps, geometry_table
from novelview.figures.pictures import attention, qualitative
from novelview.figures.plots import camera_paths, gaps, training_curves, views
from novelview.figures.posefree import posefree, posefree_table
from novelview.figures.results import Results
from novelview.figures.results_table import results_table
from novelview.figures.scaling import depth, depth_table, scaling, scaling_table
from novelview.figures.style import save, use_style
from novelview.figures.tables import Table
from novelview.figures.transfer import transfer, transfer_table
from novelview.stages.cli import run_stage

DRAWN: tuple[Callable[[Results], Figure | Table], ...] = (
    *(qualitative, attention, camera_paths, gaps, depth_maps, training_curves, views, posefree, posefree_table),
    *(results_table, depth, depth_table, geometry_table, scaling, scaling_table, transfer, transfer_table),
)
FIGURES = {function.__name__: function for function in DRAWN}


def draw(results: Results, stem: Path) -> list[Path]:
    """Draw what `results.figure` names: figures to `stem`.svg and .png, tables to .md, .tex and .csv; return the paths.

    Raises ConfigError for an unknown name, DataError where the results do not have what it needs."""
    if results.figure not in FIGURES:
        raise ConfigError(f"figure '{results.figure}' does not exist; choose one of {', '.join(FIGURES)}")
    use_style()
    drawn = FIGURES[results.figure](results)
    if isinstance(drawn, Figure):
        return save(drawn, stem)
    return drawn.write(stem, results.study.title or results.study.name)


def figures(cfg: FiguresStage) -> None:
    """Draw `cfg.figure` to the stem `io.out`.

    `io.inputs` are evaluation folders, `io.curves` training logs, `io.extras` further files the study has made."""
    folders, logs, extras = ([Path(path) for path in cfg.io.get(key) or []] for key in ("inputs", "curves", "extras"))
    draw(Results(folders, logs, extras, cfg.study, cfg.scale, cfg.figure), Path(cfg.io["out"]))


if __name__ == "__main__":
    raise SystemExit(run_stage("figures", figures))
