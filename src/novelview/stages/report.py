"""Stage `report`: python -m novelview.stages.report study=NAME io.inputs=[FOLDER,...] io.figures=FOLDER io.out=FILE."""

from pathlib import Path

from novelview.config.stages import ReportStage
from novelview.figures.report import write_report
from novelview.figures.results import Results
from novelview.stages.cli import run_stage


def report(cfg: ReportStage) -> None:
    """Write the page: `io.inputs` evaluation folders, `io.curves` training logs, `io.figures` the figures' folder.

    `io.showcase`: evaluation folders of released checkpoints."""
    folders, logs, shown = ([Path(path) for path in cfg.io.get(key) or []] for key in ("inputs", "curves", "showcase"))
    results = Results(folders, logs, study=cfg.study, scale=cfg.scale)
    write_report(results, Path(cfg.io["figures"]), Path(cfg.io["out"]), shown)


if __name__ == "__main__":
    raise SystemExit(run_stage("report", report))
