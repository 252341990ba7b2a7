"""Stage `train` (phases pretrain and finetune): packed scenes to weights. torchrun starts it on several devices."""

from novelview.config.stages import TrainStage
from novelview.files import require_writable
from novelview.stages.cli import run_stage
from novelview.timebox import TimeBox


def train(config: TrainStage) -> int:
    """Train one model; see `novelview.training.loop.train`. Outputs that cannot be written are refused at once."""
    box = TimeBox.of(config.runtime)
    for key in ("out", "log"):
        require_writable(config.io[key], f"io.{key}")
    from novelview.training.loop import train as run

    return run(config, box)


if __name__ == "__main__":
    raise SystemExit(run_stage("train", train))
