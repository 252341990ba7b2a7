"""The optimisation recipe: parameter groups, learning-rate schedule, and the rule of one update.

Source: specs/uplvsm.md section 8 and, for what is mended, section 14 (B5, B6); for onecycle, the rate of pretrained
parameters and decay of all, specs/depthsplat.md section 11.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from novelview.config.schema import TrainConfig
from novelview.errors import ConfigError

INFINITE_GRADIENT = 1e-6  # what an infinite gradient entry is replaced with
PRETRAINED = "pretrained"  # in the names of parameters that have a rate of their own
ONECYCLE_FIRST, ONECYCLE_LAST = 25.0, 1e4  # the peak rate over the first one, the first one over the last one
ONECYCLE_EXTRA = 10  # steps the onecycle schedule is longer than the training


def adamw(model: nn.Module, cfg: TrainConfig, fused: bool = False) -> torch.optim.AdamW:
    """Build AdamW with the recipe's groups; the learning rate starts at 0 and is set before every update.

    With `lr_pretrained` pretrained parameters have groups of their own, whose `rate_scale` is what the scheduled rate
    is multiplied with. Raises ConfigError when it has nothing to act on.
    """
    groups = parameter_groups(model, cfg.weight_decay, cfg.decay)
    if cfg.lr_pretrained:
        named = [[], []]
        for name, parameter in model.named_parameters():
            named[PRETRAINED in name].append(parameter)
        if not named[True]:
            raise ConfigError(
                f"train.lr_pretrained={cfg.lr_pretrained}: no parameter of this model is called {PRETRAINED}; set it to"
                " 0"
            )
        groups, given = (_split(part, cfg.weight_decay, cfg.decay) for part in named)
        groups += [{**group, "rate_scale": cfg.lr_pretrained / cfg.lr} for group in given]
    return torch.optim.AdamW(groups, lr=0.0, betas=(cfg.beta1, cfg.beta2), eps=cfg.eps, fused=fused)


def parameter_groups(model: nn.Module, weight_decay: float, decay: str = "matrices") -> list[dict[str, Any]]:
    """Split the trainable parameters into decayed ones and others.

    decay=matrices: 1-D ones and those marked `_no_weight_decay` are not decayed, all others are; all: every one is.
    """
    return _split(list(model.parameters()), weight_decay, decay)


def _split(parameters: list[nn.Parameter], weight_decay: float, decay: str) -> list[dict[str, Any]]:
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    if decay == "all":
        return [{"params": trainable, "weight_decay": weight_decay}]
    decayed, free = ([one for one in trainable if is_decayed(one) is wanted] for wanted in (True, False))
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


def is_decayed(parameter: Tensor) -> bool:
    """Tell whether weight decay applies to `parameter`."""
    return parameter.dim() != 1 and not getattr(parameter, "_no_weight_decay", False)


def learning_rate(step: int, base: float, warmup: int, total: int, kind: str) -> float:
    """Return the learning rate of update `step` (0-based): linear warm-up from 0, then `kind`.

    cosine: half a cosine period down to 0 at `total`; linear: straight to 0; constant: stays at `base`.
    """
    if step < warmup:
        return base * step / max(1, warmup)
    if kind == "constant":
        return base
    done = (step - warmup) / max(1, total - warmup)
    if kind == "linear":
        return base * max(0.0, 1 - done)
    return base * max(0.0, 0.5 * (1 + math.cos(math.pi * done)))


def onecycle_rate(step: int, peak: float, steps: int, rise: float) -> float:
    """Return the learning rate of update `step` (0-based) of PyTorch's OneCycleLR with cosine legs, `steps` long.

    From peak / 25 up to `peak` in the share `rise` of the steps, then down to peak / 25 / 1e4 at the last one.
    """
    top = rise * steps - 1
    first = peak / ONECYCLE_FIRST
    if step <= top and top > 0:
        return _cosine_leg(first, peak, step / top)
    return _cosine_leg(peak, first / ONECYCLE_LAST, min(1.0, (step - top) / (steps - 1 - top)))


def _cosine_leg(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


@dataclass(frozen=True)
class Update:
    """What became of one update: pre-clip gradient norm, the rate it used or would have, and why it was skipped."""

    grad_norm: float
    lr: float
    skipped: str | None = None  # None | nonfinite (loss) | norm (gradient above the allowed factor)


class Updater:
    """Applies accumulated gradients by the recipe's rule and counts what it did.

    `seen` is the number of updates offered, `scheduled` the position in the learning-rate schedule, `applied` the
    number of updates that changed weights.
    `agree(flag)` turns one process' "my loss is not finite" into every process' answer, so replicas never part.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        cfg: TrainConfig,
        agree: Callable[[bool], bool] = bool,
        scaler: torch.amp.grad_scaler.GradScaler | None = None,
    ) -> None:
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer, self.cfg, self.agree = optimizer, cfg, agree
        self.scaler = scaler or torch.amp.grad_scaler.GradScaler("cpu", enabled=False)
        self.seen = self.scheduled = self.applied = 0

    @property
    def limit(self) -> float:
        """The gradient norm above which an update is skipped; 0 for none."""
        return self.cfg.clip_norm * self.cfg.allowed_gradnorm_factor

    @property
    def lr(self) -> float:
        """The learning rate of the next update."""
        cfg = self.cfg
        if cfg.schedule == "onecycle":
            return onecycle_rate(self.scheduled, cfg.lr, cfg.steps + ONECYCLE_EXTRA, cfg.onecycle_rise)
        return learning_rate(self.scheduled, cfg.lr, cfg.warmup, cfg.steps, cfg.schedule)

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of one micro-batch's loss."""
        self.scaler.scale(loss / self.cfg.grad_accum).backward()

    def update(self, losses: Iterable[Tensor]) -> Update:
        """Apply the accumulated gradients of micro-batches with these losses, then clear them.

        A non-finite loss on any process skips the update on all and leaves the schedule where it is; a norm above
        `clip_norm * allowed_gradnorm_factor` skips it and advances the schedule if `schedule_on_skip`; a factor of 0
        skips none. Before update `clip_from` gradients are neither clipped nor skipped for their norm.
        """
        lr, clips = self.lr, self.seen >= self.cfg.clip_from
        self.seen += 1
        finite = all(bool(torch.isfinite(loss).all()) for loss in losses)
        if self.agree(not finite):
            self.optimizer.zero_grad(set_to_none=True)
            return Update(math.nan, lr, "nonfinite")
        norm = self._clip(clips)
        skip = clips and self.cfg.allowed_gradnorm_factor > 0 and not norm <= self.limit
        self._apply(lr, skip)
        self.scheduled += int(not skip or self.cfg.schedule_on_skip)
        return Update(norm, lr, "norm" if skip else None)

    def _clip(self, clip: bool = True) -> float:
        self.scaler.unscale_(self.optimizer)
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        for gradient in gradients:
            gradient.nan_to_num_(nan=0.0, posinf=INFINITE_GRADIENT, neginf=-INFINITE_GRADIENT)
        return float(nn.utils.clip_grad_norm_(self.parameters, self.cfg.clip_norm if clip else math.inf))

    def _apply(self, lr: float, skip: bool) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("rate_scale", 1.0)
        if not skip:
            self.scaler.step(self.optimizer)
            self.applied += 1
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """Counters and, for fp16, the loss scale."""
        counts = {"seen": self.seen, "scheduled": self.scheduled, "applied": self.applied}
        return {**counts, "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.seen, self.scheduled, self.applied = state["seen"], state["scheduled"], state["applied"]
        self.scaler.load_state_dict(state["scaler"])
