"""Everything that looks on while a run trains: its log, the progress display, and wandb with its pictures."""

import logging
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor
from tqdm import tqdm

from novelview.config.digest import digest, resolved
from novelview.config.schema import size_name
from novelview.config.stages import TrainStage
from novelview.devices import Team
from novelview.errors import missing_extra
from novelview.scenes.batch import Batch
from novelview.training.checkpoint import Record
from novelview.training.optim import PRECISIONS, Update

log = logging.getLogger(__name__)

FLUSH_SECONDS = 5.0  # the CSV is rewritten whole, so not at every row
PROJECT = "novelview"  # of wandb
PATIENCE = 30  # seconds to wait for a login or a connection, where there may be none
FAREWELL = 120.0  # seconds to wait at the end for rows that are still on their way; the rest stays on disk
CONTEXTS = 4  # context views that a picture shows at most


class Progress:
    """Steps done of `total`, images per second, time left: a bar on a terminal, lines elsewhere; on standard error."""

    def __init__(self, total: int, start: int, images_per_step: int, enabled: bool) -> None:
        self.total, self.images = total, images_per_step
        self.began, self.begun_at = time.monotonic(), start
        bar = enabled and sys.stderr.isatty()
        self.bar = tqdm(total=total, initial=start, unit="step", disable=not bar, dynamic_ncols=True)
        self.lines = enabled and not bar

    def row(self, row: dict[str, float]) -> None:
        """Show a row of the training log."""
        step = int(row["step"])
        rate = (step - self.begun_at) / max(time.monotonic() - self.began, 1e-9)
        quality, speed = f"loss {row['loss']:.4g} psnr {row['psnr']:.2f}", f"{rate * self.images:.0f} images/s"
        self.bar.set_postfix_str(f"{quality} {speed}")
        if self.lines:
            left = tqdm.format_interval((self.total - step) / rate) if rate > 0 else "?"
            print(
                f"step {step}/{self.total} {quality} lr {row['lr']:.3g} {speed}, {left} left",
                file=sys.stderr,
                flush=True,
            )


@dataclass
class Tracker:
    """Sends log rows and pictures to a wandb run, or nowhere; whatever fails there is told once and then left alone."""

    run: Any = None

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
        try:
            if self.run is not None:
                call(self.run)
        except Exception as error:  # its own, the network's and the disk's: none of them may stop a training
            log.warning("wandb fails (%s); the training goes on without it", _line(error))
            self.run = None


def open_tracker(mode: str, identity: str, folder: Path | str, name: str, config: dict[str, Any]) -> Tracker:
    """Open the wandb run `identity`, or go on with it, under `folder` in mode online, offline or disabled; what cannot
    go online is recorded offline, else not at all, with a warning. Only mode online needs the network."""
    waits: dict[str, Any] = {"init_timeout": PATIENCE, "login_timeout": PATIENCE, "finish_timeout": FAREWELL}
    given: dict[str, Any] = {"id": identity, "resume": "allow", "dir": str(folder), "name": name, "config": config}
    for attempt in {"online": ("online", "offline"), "offline": ("offline",)}.get(mode, ()):
        try:
            import wandb

            Path(folder).mkdir(parents=True, exist_ok=True)
            settings = wandb.Settings(**waits, silent=True, console="off", disable_git=True, save_code=False)
            run = wandb.init(project=PROJECT, mode=cast(Any, attempt), settings=settings, **given)
            run.define_metric("*", step_metric="step")
            return Tracker(run)
        except Exception as error:  # a missing key, network, disk or helper process: all the same to the training
            then = f"recording offline under {folder}" if attempt == "online" else "the training goes on without it"
            log.warning("wandb cannot go %s (%s); %s", attempt, _line(error), then)
            with suppress(Exception):  # its helper process would refuse the id of the run it could not open (0.31)
                sys.modules["wandb"].teardown()
    return Tracker()


def _line(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and (line := missing_extra(error)):
        return line
    return " ".join(str(error).split())[:200] or type(error).__name__


class Watch:
    """Takes in every step on the leading process; elsewhere it only keeps the rows that travel in the checkpoint."""

    def __init__(self, cfg: TrainStage, team: Team, identity: str, start: int, total: int, record: Record) -> None:
        self.cfg, self.device, self.done = cfg, team.device, start
        self.record, self.total, self.leads = record, total, team.leads
        views = cfg.views.num_context + cfg.views.num_target
        views *= cfg.train.batch_size * cfg.train.grad_accum * team.world
        self.progress = Progress(total, start, views, enabled=cfg.runtime.progress and team.leads)
        mode = cfg.runtime.wandb if team.leads else "disabled"
        name = f"{cfg.variant or cfg.model.name}-{cfg.phase}-{cfg.dataset}-{cfg.subset}-x{size_name(cfg.views)}"
        self.pictures_every, self.rows = cfg.runtime.wandb_pictures, 0
        self.tracker = open_tracker(mode, run_id(cfg, identity), cfg.io["checkpoints"], name, resolved(cfg))

    def step(self, number: int, values: dict[str, float], update: Update, preview: Callable[[], Tensor | None]) -> None:
        """Log step `number`; preview: draws a picture [3 h w] in [0,1] of what it made, where one is sent."""
        entry = {**values, "lr": update.lr, "grad_norm": update.grad_norm, "skipped": float(update.skipped is not None)}
        row, self.done = self.record.add(number, entry), number
        self.progress.bar.update()
        if row is None or not self.leads:
            return
        if time.monotonic() - self.record.flushed >= FLUSH_SECONDS:
            self.record.write()
        self.progress.row(row)
        self.tracker.row(row)
        # a picture of the first row, of every so many after it, and of the last step
        wanted = self.pictures_every and (self.rows % self.pictures_every == 0 or number == self.total)
        if wanted and self.tracker.run is not None and (picture := preview()) is not None:
            self.tracker.picture(float(number), to_bytes(picture), "context views, target, render")
        self.rows += 1

    def speed(self, operations: int) -> str:
        """Return one line: operations a step and a second, and the rate of matrix products alone on this machine."""
        progress = self.progress
        seconds = (time.monotonic() - progress.began) / max(1, self.done - progress.begun_at)
        return speed_line(operations, seconds, product_rate(self.device, PRECISIONS[self.cfg.train.amp]))

    def close(self) -> None:
        """Stop watching."""
        self.progress.bar.close()
        self.tracker.finish()


def speed_line(operations: int, seconds: float, products: float) -> str:
    """Return what a training step reached; products: operations a second of matrix products alone."""
    reached = operations / seconds
    line = f"a step: {operations / 1e9:.1f} GFLOP in {1000 * seconds:.0f} ms, {reached / 1e9:.0f} GFLOP/s a process, "
    return line + f"{reached / products:.0%} of the {products / 1e9:.0f} that products of 1024 x 1024 reach here"


def product_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """Return the operations a second of products of square matrices of 1024 rows in this process, measured."""
    a, b = (torch.randn(1024, 1024, device=device).to(dtype) for _ in range(2))
    rates = []
    until = time.perf_counter() + seconds
    while not rates or time.perf_counter() < until:
        begin = time.perf_counter()
        for _ in range(4):
            torch.mm(a, b)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        rates.append(4 * 2 * 1024**3 / (time.perf_counter() - begin))
    return sorted(rates)[len(rates) // 2]


def run_id(cfg: TrainStage, identity: str) -> str:
    """Return the wandb run's id: the digest of the configuration, then of all that the weights depend on, shortened."""
    return f"{digest(cfg)}-{identity[:8]}"


def side_by_side(batch: Batch, render: Float[Tensor, "b v 3 h w"]) -> Float[Tensor, "3 h n"]:
    """Return context views, one target and its render of a batch's first sample, left to right, values as they are."""
    assert batch.context.images is not None and batch.target.images is not None
    context = batch.context.images[0, :CONTEXTS]
    return torch.cat([*context, batch.target.images[0, 0], render[0, 0].detach().to(context.dtype)], dim=-1)


def to_bytes(picture: Float[Tensor, "3 h w"]) -> UInt8[ndarray, "h w 3"]:
    """Return a picture in [0,1], clamped to it, as 8-bit RGB."""
    return (picture.float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
