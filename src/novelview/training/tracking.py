"""Optional tracking with Weights & Biases; it never needs the network unless asked to, and never stops a run."""

import logging
from pathlib import Path
from typing import Any, Literal, cast

log = logging.getLogger(__name__)

PROJECT = "novelview"


class Tracker:
    """Sends log rows to a wandb run, or nowhere."""

    def __init__(self, run: Any = None) -> None:
        self.run = run

    def row(self, row: dict[str, float]) -> None:
        """Send one row of the training log."""
        if self.run is not None:
            self.run.log(dict(row))

    def finish(self) -> None:
        """Close the run."""
        if self.run is not None:
            self.run.finish()


def start(mode: str, identity: str, folder: Path | str, name: str, config: dict[str, Any]) -> Tracker:
    """Open the wandb run `identity` under `folder` in mode online, offline or disabled.

    A resumed training continues the same run. When an online run cannot be opened, says so and goes on offline.
    """
    if mode == "disabled":
        return Tracker()
    import wandb

    Path(folder).mkdir(parents=True, exist_ok=True)
    arguments = {"id": identity, "resume": "allow", "dir": str(folder), "name": name, "config": config}
    settings = wandb.Settings(init_timeout=30, silent=True, console="off", disable_git=True, save_code=False)
    try:
        run = wandb.init(project=PROJECT, mode=cast(Literal["online", "offline"], mode), settings=settings, **arguments)
    except wandb.Error as error:
        if mode == "offline":
            raise
        log.warning("wandb cannot go online (%s); recording offline under %s", " ".join(str(error).split()), folder)
        run = wandb.init(project=PROJECT, mode="offline", settings=settings, **arguments)
    run.define_metric("*", step_metric="step")
    return Tracker(run)
