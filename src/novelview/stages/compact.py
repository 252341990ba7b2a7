"""Stage `compact`: weights in bfloat16, for a release; python -m novelview.stages.compact name=NAME io.weights=FILE."""

from pathlib import Path

from novelview.config.checkpoints import require_name
from novelview.config.stages import CompactStage
from novelview.files import require_writable
from novelview.stages.cli import run_stage


def compact(cfg: CompactStage) -> None:
    """Round `io.weights` to `io.out`; see `novelview.models.exchange.compact`. Bad names and outputs fail at once."""
    require_name(cfg.name, "name")
    require_writable(cfg.io["out"], "io.out")
    from novelview.models.exchange import compact as run

    run(Path(cfg.io["weights"]), [Path(path) for path in cfg.io["before"]], cfg.name, Path(cfg.io["out"]))


if __name__ == "__main__":
    raise SystemExit(run_stage("compact", compact))
