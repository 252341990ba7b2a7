"""Stage `figures`: python -m novelview.stages.figures figure=NAME io.inputs=[..] io.curves=[..] io.out=STEM."""

from pathlib import Path

from novelview.config.stages import FiguresStage
from novelview.figures.registry import draw
from novelview.figures.results import Results
from novelview.stages.cli import run_stage


def figures(cfg: FiguresStage) -> None:
    """Draw `cfg.figure` to the stem `io.out`.

    `io.inputs` are evaluation folders, `io.curves` training logs, `io.extras` further files the study has made.
    """
    folders, logs, extras = ([Path(path) for path in cfg.io.get(key) or []] for key in ("inputs", "curves", "extras"))
    draw(Results(folders, logs, extras, cfg.study, cfg.scale, cfg.figure), Path(cfg.io["out"]))


if __name__ == "__main__":
    raise SystemExit(run_stage("figures", figures))
