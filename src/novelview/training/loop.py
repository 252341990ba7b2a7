"""The training run: steps from a counter-based loader, a log, resumable checkpoints, final weights."""

import itertools
import logging
import os
import time
from pathlib import Path

from novelview.config.digest import resolved
from novelview.config.schema import sides
from novelview.config.stages import TrainStage
from novelview.errors import CheckpointError, ConfigError, NovelviewError
from novelview.losses.training import TrainingLoss
from novelview.models.weights import save_weights
from novelview.scenes.dataset import TrainLoader, TrainSet, workers_that_fit
from novelview.scenes.pointmaps import Pointmaps
from novelview.scenes.store import PackedStore, subset_scenes
from novelview.timebox import BOXED, INTERRUPTED, TimeBox
from novelview.training.checkpoint import Checkpoints, State, random_state, restore_random_state, sweep_partial
from novelview.training.distributed import Team, team
from novelview.training.interrupt import Interrupt, listening
from novelview.training.lock import holding
from novelview.training.optim import Update
from novelview.training.record import Record
from novelview.training.start import build_model, compare_depths, identity
from novelview.training.step import Stepper
from novelview.training.watch import Watch

log = logging.getLogger(__name__)

PATIENCE = 200  # skipped updates in a row after which a run gives up: its weights no longer change


class DivergedError(NovelviewError):
    """Training cannot go on or went nowhere: losses that are not finite, or every update skipped."""


def train(cfg: TrainStage, box: TimeBox | None = None) -> int:
    """Train as configured; return the exit status: 0, or, with the state saved, `INTERRUPTED` or `BOXED`.

    INTERRUPTED follows a signal, BOXED the end of `box` (None: one of `cfg.runtime` that begins now), whose unit is a
    step: a call trains one at least.

    `cfg.io`: packed (folder of the packed store), out (weights), log (CSV), checkpoints (folder), init (weights, null).
    A run that finds its own checkpoint goes on from it and ends with the very bytes of an undisturbed run on a CPU.
    """
    box = box or TimeBox.of(cfg.runtime)
    with team(cfg.runtime) as members, listening() as interrupt:
        return Run(cfg, members, interrupt, box).train()


class Run:
    """One training run of one process."""

    def __init__(self, cfg: TrainStage, members: Team, interrupt: Interrupt, box: TimeBox) -> None:
        self.cfg, self.team, self.interrupt, self.box = cfg, members, interrupt, box
        self.loader = _loader(cfg, members)
        if members.leads:
            compare_depths(cfg)
        self.identity = identity(cfg)
        loss = TrainingLoss(cfg.train.losses).to(members.device)
        self.stepper = Stepper(build_model(cfg, members), loss, cfg.train, members)
        self.checkpoints = Checkpoints(cfg.io["checkpoints"], self.identity, cfg.runtime.keep_checkpoints)
        self.record = Record(cfg.io["log"], cfg.runtime.log_every, self.total, loss.logged)
        self.done = self.skipped_in_a_row = 0
        self.boxed = False
        self.saved_at = time.monotonic()

    @property
    def total(self) -> int:
        """Iterations to run; the reference's extra one follows the step whose weights are kept."""
        return self.cfg.train.steps + int(self.cfg.train.extra_iteration)

    def train(self) -> int:
        """Run to the end, to a signal or to the end of the box; return the exit status."""
        with holding(self.checkpoints.folder, wanted=self.team.leads):
            return self._train()

    def _train(self) -> int:
        self._resume()
        with Watch(self.cfg, self.team, self.identity, self.done, self.total, self.record) as watch:
            finished = self._steps(watch)
        if self.team.leads:
            self.record.write()
            self._report(finished)
        return 0 if finished else BOXED if self.boxed else INTERRUPTED

    def _steps(self, watch: Watch) -> bool:
        accum, steps = self.cfg.train.grad_accum, self.cfg.train.steps
        batches = self.loader.batches(self.done * accum, self.total * accum)
        if self.done == steps:
            self._keep_weights()
        while self.done < self.total:
            values, update = self.stepper.step(itertools.islice(batches, accum))
            self.done += 1
            self._check(update)
            watch.step(self.done, values, update, self.stepper.preview)
            if self._save_if_due():
                return False
            if self.done == steps:
                self._keep_weights()
        return True

    def _save_if_due(self) -> bool:
        """Save when the interval is over, the recipe ends, a signal came or the box is over; tell whether to stop."""
        late = time.monotonic() - self.saved_at >= self.cfg.runtime.checkpoint_seconds
        due, asked, over = self.team.any([late and self.team.leads, bool(self.interrupt), self.box.over])
        stop, self.boxed = (asked or over) and self.done < self.total, over and not asked
        last = self.done == self.cfg.train.steps
        if last or (self.done < self.cfg.train.steps and (due or stop)):
            self._save()
        if stop:
            self.team.wait()  # torchrun kills the others as soon as one ends, perhaps while the first still writes
        return stop

    def _save(self) -> None:
        randoms = self.team.gather(random_state())
        if self.team.leads:
            self.checkpoints.save(self.done, self._state(randoms))
        self.saved_at = time.monotonic()

    def _state(self, randoms: list[State]) -> State:
        stepper = self.stepper
        return {
            "model": stepper.model.state_dict(),
            "optimizer": stepper.optimizer.state_dict(),
            "updater": stepper.updater.state_dict(),
            "record": self.record.state_dict(),
            "random": randoms,
            "world": self.team.world,
        }

    def _resume(self) -> None:
        if self.team.leads:
            sweep_partial(self.cfg.io["out"])
            sweep_partial(self.cfg.io["log"])
            self.checkpoints.sweep()
        state = self.checkpoints.load()
        if len(set(self.team.gather(state and state["step"]))) > 1:
            raise CheckpointError(f"{self.checkpoints.folder}: not the same for all processes; put it on a shared disk")
        if state is None:
            return
        self.done = state["step"]
        self.stepper.model.load_state_dict(state["model"])
        self.stepper.optimizer.load_state_dict(state["optimizer"])
        self.stepper.updater.load_state_dict(state["updater"])
        self.record.load_state_dict(state["record"])
        self._resume_random(state)

    def _resume_random(self, state: State) -> None:
        if state["world"] != self.team.world:
            log.warning("the checkpoint is of %d processes, this run has %d", state["world"], self.team.world)
        if self.team.rank < len(state["random"]):
            restore_random_state(state["random"][self.team.rank])

    def _check(self, update: Update) -> None:
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if update.skipped else 0
        if self.skipped_in_a_row == PATIENCE:
            cfg = self.cfg.train
            norm = (
                f"the gradient norm was {update.grad_norm:.3g}, above {cfg.clip_norm * cfg.allowed_gradnorm_factor:g}"
            )
            what = "the loss was not finite" if update.skipped == "nonfinite" else norm
            raise DivergedError(
                f"the last {PATIENCE} updates up to step {self.done} were skipped, at last because {what}; lower "
                "train.lr, lengthen train.warmup, raise train.allowed_gradnorm_factor or use train.amp=none"
            )

    def _keep_weights(self) -> None:
        """Write the weights after the recipe's last step; raises DivergedError when no update ever changed them."""
        cfg = self.cfg.train
        limit = cfg.clip_norm * cfg.allowed_gradnorm_factor
        if not self.stepper.updater.applied:
            raise DivergedError(
                f"not one of {cfg.steps} updates was applied: every loss was not finite or every gradient norm above "
                f"{limit:g}; lower train.lr or raise train.allowed_gradnorm_factor"
            )
        if self.team.leads:
            save_weights(Path(self.cfg.io["out"]), self.stepper.model, resolved(self.cfg))

    def _report(self, finished: bool) -> None:
        if not finished:
            asked = self.interrupt.name or "a signal elsewhere"
            folder, name = self.checkpoints.folder, "its time box" if self.boxed else asked
            log.warning("stopped by %s after step %d, state saved in %s; run again to go on", name, self.done, folder)
            return
        applied = self.stepper.updater.applied
        log.info("%d updates applied, %d skipped; weights: %s", applied, self.done - applied, self.cfg.io["out"])


def _loader(cfg: TrainStage, members: Team) -> TrainLoader:
    store = PackedStore(Path(cfg.io["packed"]) / "train")
    scenes = subset_scenes(store, cfg.subset)
    workers = workers_that_fit(cfg.runtime.workers, _batch_bytes(cfg))
    threads = 1 if workers else cfg.runtime.threads or os.cpu_count() or 1
    accum, pointmaps = cfg.train.grad_accum, _pointmaps(cfg)
    cache, shared = cfg.runtime.cache_mb, workers > 1 and cfg.runtime.cache_mb > 0
    data = TrainSet(store, cfg.views, cfg.train.seed, cache, scenes, threads, accum, pointmaps, shared)
    return TrainLoader(data, cfg.train.batch_size, members.rank, members.world, members.device, workers)


def _batch_bytes(cfg: TrainStage) -> int:
    """Return the bytes of a micro-batch: uint8 pictures, and float32 points of the contexts under PM-Loss."""
    views, taught = cfg.views, cfg.train.losses.pointmap.weight > 0
    height, width = sides(views)
    pictures = views.num_context + views.num_target + 4 * views.num_context * taught
    return cfg.train.batch_size * pictures * 3 * height * width


def _pointmaps(cfg: TrainStage) -> Pointmaps | None:
    """Open the pointmaps that PM-Loss asks for; raises ConfigError when they are not named."""
    wanted = cfg.train.losses.pointmap
    if not wanted.weight:
        return None
    if not cfg.io.get("pointmaps"):
        raise ConfigError("train.losses.pointmap.weight: PM-Loss needs io.pointmaps, a folder of the pointmaps stage")
    return Pointmaps(cfg.io["pointmaps"], cfg.views, wanted.teacher)
