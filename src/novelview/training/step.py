"""One optimisation step: forward, backward over the micro-batches, and the update rule."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from novelview.config.schema import TrainConfig
from novelview.losses.training import TrainingLoss
from novelview.models.render import Render
from novelview.scenes.batch import Batch
from novelview.training.distributed import Team
from novelview.training.optim import Update, Updater, adamw
from novelview.training.preview import side_by_side

LOGGED = ("loss", "mse", "psnr")
PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "none": torch.float32}

Loss = Callable[[Render, Batch], Mapping[str, Tensor]]


class Stepper:
    """Trains `model` with `loss(render, batch) -> {loss, mse, psnr, ...}` by the recipe `cfg` on `team`.

    Gradients are averaged over processes on the last micro-batch of a step only. AdamW is fused on GPUs; on CPUs the
    plain implementation is kept, whose numbers are the reference's.
    """

    def __init__(self, model: nn.Module, loss: Loss, cfg: TrainConfig, team: Team) -> None:
        self.model, self.loss, self.cfg, self.team = model, loss, cfg, team
        cuda = team.device.type == "cuda"
        self.wrapped = self._wrap(cuda)
        self.logged = (*LOGGED, *getattr(loss, "logged", ()))
        self.preview: Tensor | None = None  # the latest micro-batch, for people to look at
        self.optimizer = adamw(model, cfg, fused=cuda)
        scaler = torch.amp.grad_scaler.GradScaler(team.device.type, enabled=cfg.amp == "fp16")
        self.updater = Updater(model, self.optimizer, cfg, team.agree, scaler)

    def _wrap(self, cuda: bool) -> nn.Module:
        if self.team.world == 1:
            return self.model
        devices = [self.team.device] if cuda else None
        return DistributedDataParallel(self.model, device_ids=devices, broadcast_buffers=False)

    def step(self, batches: Iterable[Batch]) -> tuple[dict[str, float], Update]:
        """Train on `grad_accum` micro-batches; return the mean of `logged` over them and all processes, and the update.

        The model sees whole `Views`; what it may look at is its own declaration (`needs_target_images` and others).
        """
        if isinstance(self.loss, TrainingLoss):
            self.loss.step = self.updater.seen
        values = []
        for number, batch in enumerate(batches, start=1):
            with self._sync(number == self.cfg.grad_accum):
                values.append(self._micro(batch))
        stacked = torch.stack(values)
        means = self.team.mean(stacked.mean(0).tolist())
        return dict(zip(self.logged, means, strict=True)), self.updater.update(stacked[:, 0])

    def _sync(self, last: bool) -> AbstractContextManager[None]:
        if last or not isinstance(self.wrapped, DistributedDataParallel):
            return nullcontext()
        return self.wrapped.no_sync()

    def _micro(self, batch: Batch) -> Tensor:
        with self.autocast():
            render = self.wrapped(batch.context, batch.target)
            losses = self.loss(render, batch)
        self.preview = side_by_side(batch, render.images)
        self.updater.backward(losses["loss"])
        return torch.stack([losses[name].detach().float() for name in self.logged])

    def autocast(self) -> torch.autocast:
        """Return the context of the recipe's precision, for the forward pass and the loss."""
        enabled = self.cfg.amp != "none"
        return torch.autocast(self.team.device.type, dtype=PRECISIONS[self.cfg.amp], enabled=enabled)
