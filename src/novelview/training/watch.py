"""Everything that looks on while a run trains: its log, the progress display, wandb."""

from typing import Any

from torch import Tensor

from novelview.config.digest import digest, resolved
from novelview.config.schema import size_name
from novelview.config.stages import TrainStage
from novelview.training import tracking
from novelview.training.distributed import Team
from novelview.training.optim import Update
from novelview.training.preview import to_bytes
from novelview.training.progress import Progress
from novelview.training.record import Record


class Watch:
    """Takes in every step on the leading process; elsewhere it only keeps the rows that travel in the checkpoint."""

    def __init__(self, cfg: TrainStage, team: Team, identity: str, start: int, total: int, record: Record) -> None:
        self.record, self.total, self.leads = record, total, team.leads
        images = cfg.train.batch_size * cfg.train.grad_accum * team.world
        views = images * (cfg.views.num_context + cfg.views.num_target)
        self.progress = Progress(total, start, views, enabled=cfg.runtime.progress and team.leads)
        mode = cfg.runtime.wandb if team.leads else "disabled"
        name = f"{cfg.variant or cfg.model.name}-{cfg.phase}-{cfg.dataset}-{cfg.subset}-x{size_name(cfg.views)}"
        self.pictures_every, self.rows = cfg.runtime.wandb_pictures, 0
        self.tracker = tracking.start(mode, run_id(cfg, identity), cfg.io["checkpoints"], name, resolved(cfg))

    def step(self, number: int, values: dict[str, float], update: Update, preview: Tensor | None = None) -> None:
        """Log step `number`; preview: a picture [3 h w] in [0,1] of what it made."""
        entry = {**values, "lr": update.lr, "grad_norm": update.grad_norm, "skipped": float(update.skipped is not None)}
        row = self.record.add(number, entry)
        self.progress.step()
        if row is not None and self.leads:
            self.record.write_if_due()
            self.progress.row(row)
            self.tracker.row(row)
            self._show(number, preview)

    def _show(self, number: int, preview: Tensor | None) -> None:
        """Send the picture of the first row, of every so many after it, and of the last step."""
        wanted = self.pictures_every and (self.rows % self.pictures_every == 0 or number == self.total)
        if wanted and preview is not None and self.tracker.run is not None:
            self.tracker.picture(float(number), to_bytes(preview), "context views, target, render")
        self.rows += 1

    def close(self) -> None:
        """Stop watching."""
        self.progress.close()
        self.tracker.finish()

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def run_id(cfg: TrainStage, identity: str) -> str:
    """Return the wandb run's id: the stage's configuration digest, then what else the weights depend on, shortened.

    A resumed training keeps it; other code, data or starting weights under the same configuration are another run.
    """
    return f"{digest(cfg)}-{identity[:8]}"
