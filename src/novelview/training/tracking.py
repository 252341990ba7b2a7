"""Optional tracking with Weights & Biases; it never needs the network unless asked to, and never stops a run."""

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from novelview.errors import missing_extra

log = logging.getLogger(__name__)

PROJECT = "novelview"
PATIENCE = 30  # seconds to wait for a login or a connection, where there may be none
FAREWELL = 120.0  # seconds to wait at the end for rows that are still on their way; the rest stays on disk


class Tracker:
    """Sends log rows and pictures to a wandb run, or nowhere; whatever fails there is told once and then left alone."""

    def __init__(self, run: Any = None) -> None:
        self.run = run

    def row(self, row: dict[str, float]) -> None:
        """Send one row of the training log."""
        self._send(lambda run: run.log(dict(row)))

    def picture(self, step: float, picture: Any, caption: str) -> None:
        """Send a picture, uint8 RGB [h w 3], as of a step."""
        from wandb import Image

        self._send(lambda run: run.log({"step": step, "pictures": Image(picture, caption=caption)}))

    def finish(self) -> None:
        """Close the run."""
        self._send(lambda run: run.finish())

    def _send(self, call: Callable[[Any], Any]) -> None:
        if self.run is None:
            return
        try:
            call(self.run)
        except Exception as error:  # its own, the network's and the disk's: none of them may stop a training
            log.warning("wandb fails (%s); the training goes on without it", _line(error))
            self.run = None


def start(mode: str, identity: str, folder: Path | str, name: str, config: dict[str, Any]) -> Tracker:
    """Open the wandb run `identity` under `folder` in mode online, offline or disabled.

    A resumed training continues the same run. Where an online run cannot be opened it is recorded offline, and where
    that cannot be either, not at all; both are told. The key is WANDB_API_KEY or what `wandb login` stored.
    """
    for attempt in {"online": ("online", "offline"), "offline": ("offline",)}.get(mode, ()):
        try:
            return Tracker(_open(attempt, identity, folder, name, config))
        except Exception as error:  # a missing key, network, disk or helper process: all the same to the training
            then = f"recording offline under {folder}" if attempt == "online" else "the training goes on without it"
            log.warning("wandb cannot go %s (%s); %s", attempt, _line(error), then)
            _forget()
    return Tracker()


def _open(mode: str, identity: str, folder: Path | str, name: str, config: dict[str, Any]) -> Any:
    import wandb

    Path(folder).mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(
        init_timeout=PATIENCE,
        login_timeout=PATIENCE,
        finish_timeout=FAREWELL,
        silent=True,
        console="off",
        disable_git=True,
        save_code=False,
    )
    given: dict[str, Any] = {"id": identity, "resume": "allow", "dir": str(folder), "name": name, "config": config}
    run = wandb.init(project=PROJECT, mode=cast(Any, mode), settings=settings, **given)
    run.define_metric("*", step_metric="step")
    return run


def _forget() -> None:
    """End wandb's helper process, which would refuse the id of the run it could not open (wandb 0.31)."""
    with suppress(Exception):
        import wandb

        wandb.teardown()


def _line(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and (line := missing_extra(error)):
        return line
    return " ".join(str(error).split())[:200] or type(error).__name__
