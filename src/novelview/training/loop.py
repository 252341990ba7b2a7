"""The training run: steps from a counter-based loader, resumable checkpoints, final weights; and one step."""

import itertools
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

from novelview.config.digest import code_of, resolved
from novelview.config.schema import TrainConfig, sides
from novelview.config.stages import TrainStage
from novelview.devices import Team, team
from novelview.errors import CheckpointError, ConfigError, NovelviewError
from novelview.files import holding_lock
from novelview.losses.photometric import TrainingLoss
from novelview.models.registry import save_weights
from novelview.models.render import Render
from novelview.scenes.batch import Batch
from novelview.scenes.dataset import TrainLoader, TrainSet, workers_that_fit
from novelview.scenes.pointmaps import Pointmaps
from novelview.scenes.store import PackedStore, subset_scenes
from novelview.timebox import BOXED, INTERRUPTED, TimeBox
from novelview.training import checkpoint
from novelview.training.optim import PRECISIONS, Update, Updater, adamw
from novelview.training.watch import Watch, side_by_side

log = logging.getLogger(__name__)

LOGGED = ("loss", "mse", "psnr")
PATIENCE = 200  # skipped updates in a row after which a run gives up: its weights no longer change

Loss = Callable[[Render, Batch], Mapping[str, Tensor]]


class DivergedError(NovelviewError):
    """Training cannot go on or went nowhere: losses that are not finite, or every update skipped."""


def train(cfg: TrainStage, box: TimeBox | None = None) -> int:
    """Train as configured; return 0 or, with the state saved, INTERRUPTED (by a signal) or BOXED (the end of `box`).

    A call trains one step at least. A run that finds its own checkpoint goes on from it and ends with the very bytes
    of an undisturbed run on a CPU."""
    with team(cfg.runtime) as members, checkpoint.noting_signals() as interrupt:
        return Run(cfg, members, interrupt, box or TimeBox.of(cfg.runtime)).train()


class Run:
    """One training run of one process."""

    def __init__(self, cfg: TrainStage, members: Team, interrupt: checkpoint.Interrupt, box: TimeBox) -> None:
        self.cfg, self.team, self.interrupt, self.box = cfg, members, interrupt, box
        self.total = cfg.train.steps + int(cfg.train.extra_iteration)  # the extra one follows the step that is kept
        self.loader = _loader(cfg, members)
        if members.leads:
            checkpoint.compare_depths(cfg)
        self.identity = checkpoint.identity(cfg)
        loss = TrainingLoss(cfg.train.losses).to(members.device)
        model = checkpoint.build_model(cfg, members)
        self.loader.data.store.require_cameras(model.needs_cameras, cfg.model.name)
        self.stepper = own = Stepper(model, loss, cfg.train, members)
        keep, go_on = cfg.runtime.keep_checkpoints, cfg.runtime.code == "keep"
        code = code_of("train", cfg.model.code)
        place, last = cfg.io["checkpoints"], cfg.train.steps
        self.checkpoints = checkpoint.Checkpoints(place, self.identity, keep, code, go_on, last)
        self.record = checkpoint.Record(cfg.io["log"], cfg.runtime.log_every, self.total, loss.logged)
        self.parts: dict[str, Any]  # what a checkpoint holds the state of
        self.parts = dict(model=own.model, optimizer=own.optimizer, updater=own.updater, record=self.record)
        self.done = self.skipped_in_a_row = 0
        self.boxed, self.saved_at = False, time.monotonic()

    def train(self) -> int:
        """Run to the end, to a signal or to the end of the box; return the exit status."""
        with holding_lock(self.checkpoints.folder, self.team.world == 1) if self.team.leads else nullcontext():
            self._resume()
            with closing(Watch(self.cfg, self.team, self.identity, self.done, self.total, self.record)) as watch:
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
            if self.done == steps and self.team.leads:
                log.info("%s", watch.speed(self.stepper.operations()))
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
        if self.done == self.cfg.train.steps or (self.done < self.cfg.train.steps and (due or stop)):
            randoms = self.team.gather(checkpoint.random_state())
            if self.team.leads:
                parts = {name: part.state_dict() for name, part in self.parts.items()}
                self.checkpoints.save(self.done, {**parts, "random": randoms, "world": self.team.world})
            self.saved_at = time.monotonic()
        if stop:  # torchrun kills the others as soon as one ends, perhaps while the first still writes
            self.team.gather(None)
        return stop

    def _resume(self) -> None:
        if self.team.leads:
            for path in (Path(self.cfg.io["out"]), Path(self.cfg.io["log"])):
                checkpoint.sweep_partial(path.parent, f".{path.stem}.*.partial{path.suffix}")
            checkpoint.sweep_partial(self.checkpoints.folder, f".{self.identity}-*.partial.pt")
        state = self.checkpoints.load()
        if len(set(self.team.gather(state and state["step"]))) > 1:
            raise CheckpointError(f"{self.checkpoints.folder}: not the same for all processes; put it on a shared disk")
        if state is None:
            return
        self.done = state["step"]
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        if state["world"] != self.team.world:
            log.warning("the checkpoint is of %d processes, this run has %d", state["world"], self.team.world)
        if self.team.rank < len(state["random"]):
            checkpoint.restore_random_state(state["random"][self.team.rank])

    def _check(self, update: Update) -> None:
        self.skipped_in_a_row = self.skipped_in_a_row + 1 if update.skipped else 0
        if self.skipped_in_a_row == PATIENCE:
            norm = f"the gradient norm was {update.grad_norm:.3g}, above {self.stepper.updater.limit:g}"
            known = {"nonfinite": "the loss was not finite", "overflow": "gradients were too large for float16"}
            what = known.get(str(update.skipped), norm)
            advice = "lower train.lr, lengthen train.warmup, raise train.allowed_gradnorm_factor or use train.amp=none"
            last = f"the last {PATIENCE} updates up to step {self.done} were skipped, at last because {what}"
            raise DivergedError(f"{last}; {advice}")

    def _keep_weights(self) -> None:
        """Write the weights after the recipe's last step; raises DivergedError when no update ever changed them."""
        if not self.stepper.updater.applied:
            raise DivergedError(
                f"not one of {self.cfg.train.steps} updates was applied: every loss was not finite or every gradient "
                f"norm above {self.stepper.updater.limit:g}; lower train.lr or raise train.allowed_gradnorm_factor"
            )
        if self.team.leads:
            save_weights(Path(self.cfg.io["out"]), self.stepper.model, resolved(self.cfg))

    def _report(self, finished: bool) -> None:
        folder, applied = self.checkpoints.folder, self.stepper.updater.applied
        if not finished:
            name = "its time box" if self.boxed else self.interrupt.name or "a signal elsewhere"
            log.warning("stopped by %s after step %d, state saved in %s; run again to go on", name, self.done, folder)
            return
        log.info("%d updates applied, %d skipped; weights: %s", applied, self.done - applied, self.cfg.io["out"])


class Stepper:
    """Trains `model` with `loss(render, batch) -> {loss, mse, psnr, ...}` by the recipe `cfg` on `team`."""

    def __init__(self, model: nn.Module, loss: Loss, cfg: TrainConfig, team: Team) -> None:
        self.model, self.loss, self.cfg, self.team = model, loss, cfg, team
        cuda = team.device.type == "cuda"
        self.wrapped: nn.Module = model
        if team.world > 1:
            self.wrapped = DistributedDataParallel(model, [team.device] if cuda else None, broadcast_buffers=False)
        self.logged = (*LOGGED, *getattr(loss, "logged", ()))
        self.latest: tuple[Batch, Tensor] | None = None  # micro-batch and render, for people to look at
        self.optimizer = adamw(model, cfg, fused=cuda)  # the plain one gives the reference's numbers on CPUs
        scaler = torch.amp.grad_scaler.GradScaler(team.device.type, enabled=cfg.amp == "fp16")
        self.updater = Updater(model, self.optimizer, cfg, lambda flag: team.any([flag])[0], scaler)

    def step(self, batches: Iterable[Batch]) -> tuple[dict[str, float], Update]:
        """Train on `grad_accum` micro-batches; return the means of `logged` over all processes, and the update."""
        if isinstance(self.loss, TrainingLoss):
            self.loss.step = self.updater.seen
        values = []
        for number, batch in enumerate(batches, start=1):
            # gradients are averaged over processes on the last micro-batch of a step only
            more, model = number < self.cfg.grad_accum, self.wrapped
            with model.no_sync() if more and isinstance(model, DistributedDataParallel) else nullcontext():
                with self.autocast():
                    render = model(batch.context, batch.target)
                    losses = self.loss(render, batch)
                self.latest = batch, render.images.detach()
                self.updater.backward(losses["loss"])
                values.append(torch.stack([losses[name].detach().float() for name in self.logged]))
        stacked = torch.stack(values)
        means = self.team.mean(stacked.mean(0).tolist())
        return dict(zip(self.logged, means, strict=True)), self.updater.update(stacked[:, 0])

    @torch.no_grad()
    def operations(self) -> int:
        """Return the operations of a step (2 a multiply-add): a forward pass counted, a backward pass as two of it."""
        if self.latest is None:
            return 0
        batch, fused = self.latest[0], sdpa_kernel(SDPBackend.MATH)  # its fused form is not counted everywhere
        with torch.random.fork_rng(), self.autocast(), fused, FlopCounterMode(display=False) as counter:
            self.model.forward(batch.context, batch.target)
        passes = 4 if self.cfg.activation_checkpointing else 3
        return passes * self.cfg.grad_accum * counter.get_total_flops()

    def preview(self) -> Tensor | None:
        """Return the first sample of the latest micro-batch as a picture, see `side_by_side`."""
        return side_by_side(*self.latest) if self.latest else None

    def autocast(self) -> torch.autocast:
        """Return the context of the recipe's precision, for the forward pass and the loss."""
        enabled = self.cfg.amp != "none"
        return torch.autocast(self.team.device.type, dtype=PRECISIONS[self.cfg.amp], enabled=enabled)


def _loader(cfg: TrainStage, members: Team) -> TrainLoader:
    store = PackedStore(Path(cfg.io["packed"]) / "train")
    scenes = subset_scenes(store, cfg.subset)
    pointmaps, wanted = None, cfg.train.losses.pointmap
    if wanted.weight:
        if not cfg.io.get("pointmaps"):
            raise ConfigError("train.losses.pointmap.weight: PM-Loss needs io.pointmaps, a folder of stage pointmaps")
        pointmaps = Pointmaps(cfg.io["pointmaps"], cfg.views, wanted.teacher)
    height, width = sides(cfg.views)
    # bytes of a micro-batch: uint8 pictures, and float32 points of the contexts under PM-Loss
    pictures = cfg.views.num_context + cfg.views.num_target + 4 * cfg.views.num_context * (pointmaps is not None)
    workers = workers_that_fit(cfg.runtime.workers, cfg.train.batch_size * pictures * 3 * height * width)
    threads = 1 if workers else cfg.runtime.threads or os.cpu_count() or 1
    cache, shared = cfg.runtime.cache_mb, workers > 1 and cfg.runtime.cache_mb > 0
    data = TrainSet(store, cfg.views, cfg.train.seed, cache, scenes, threads, cfg.train.grad_accum, pointmaps, shared)
    return TrainLoader(data, cfg.train.batch_size, members.rank, members.world, members.device, workers)
