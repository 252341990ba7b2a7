"""The optimisation recipe: parameter groups, learning-rate schedule, and the rule of one update.

Sources: specs/uplvsm.md sections 8 and 14 (B5, B6); specs/depthsplat.md section 11 (onecycle, pretrained, decay)."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from novelview.config.schema import TrainConfig
from novelview.errors import ConfigError

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "none": torch.float32}  # by `train.amp`
INFINITE_GRADIENT = 1e-6  # what an infinite gradient entry is replaced with
PRETRAINED = "pretrained"  # in the names of parameters that have a rate of their own
ONECYCLE_FIRST, ONECYCLE_LAST = 25.0, 1e4  # the peak rate over the first one, the first one over the last one
ONECYCLE_EXTRA = 10  # steps the onecycle schedule is longer than the training


def adamw(model: nn.Module, cfg: TrainConfig, fused: bool = False) -> torch.optim.AdamW:
    """Build AdamW with the recipe's groups, at rate 0; raises ConfigError when `lr_pretrained` finds no parameter."""
    groups = parameter_groups(model.parameters(), cfg.weight_decay, cfg.decay)
    if cfg.lr_pretrained:
        named = [(PRETRAINED in name, parameter) for name, parameter in model.named_parameters()]
        own, pretrained = ([parameter for given, parameter in named if given is wanted] for wanted in (False, True))
        if not pretrained:
            what = f"train.lr_pretrained={cfg.lr_pretrained}"
            raise ConfigError(f"{what}: no parameter of this model is called {PRETRAINED}; set it to 0")
        groups, given = (parameter_groups(part, cfg.weight_decay, cfg.decay) for part in (own, pretrained))
        groups += [{**group, "rate_scale": cfg.lr_pretrained / cfg.lr} for group in given]
    return torch.optim.AdamW(groups, lr=0.0, betas=(cfg.beta1, cfg.beta2), eps=cfg.eps, fused=fused)


def parameter_groups(
    parameters: Iterable[nn.Parameter], weight_decay: float, decay: str = "matrices"
) -> list[dict[str, Any]]:
    """Split trainable parameters into decayed ones and others; decay: matrices (those `is_decayed`) or all."""
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    if decay == "all":
        return [{"params": trainable, "weight_decay": weight_decay}]
    decayed, free = ([one for one in trainable if is_decayed(one) is wanted] for wanted in (True, False))
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]


def is_decayed(parameter: Tensor) -> bool:
    """Tell whether weight decay applies: not to 1-D parameters and those marked `_no_weight_decay`."""
    return parameter.dim() != 1 and not getattr(parameter, "_no_weight_decay", False)


def learning_rate(step: int, base: float, warmup: int, total: int, kind: str) -> float:
    """Return the rate of update `step` (0-based): linear warm-up, then constant, linear or cosine to 0 at `total`."""
    if step < warmup:
        return base * step / max(1, warmup)
    if kind == "constant":
        return base
    done = (step - warmup) / max(1, total - warmup)
    return base * max(0.0, 1 - done if kind == "linear" else 0.5 * (1 + math.cos(math.pi * done)))


def onecycle_rate(step: int, peak: float, steps: int, rise: float) -> float:
    """Return the rate of update `step` (0-based) of PyTorch's OneCycleLR: cosine legs up to `peak` and down again."""
    top, first = rise * steps - 1, peak / ONECYCLE_FIRST
    rises = step <= top and top > 0
    start, end = (first, peak) if rises else (peak, first / ONECYCLE_LAST)
    share = step / top if rises else min(1.0, (step - top) / (steps - 1 - top))
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


@dataclass(frozen=True)
class Update:
    """What became of one update: pre-clip gradient norm, the rate it used or would have, and why it was skipped."""

    grad_norm: float
    lr: float
    skipped: str | None = None  # None | nonfinite (loss) | norm (above the allowed factor) | overflow (of float16)


class Updater:
    """Applies accumulated gradients by the recipe's rule; counts updates seen, of the schedule, and applied to weights.

    `agree(flag)` turns one process' "my loss is not finite" into every process' answer, so replicas never part."""

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
        """Apply the accumulated gradients of micro-batches with these losses, or skip the update; then clear them. The
        schedule stays after a loss that is not finite and, without `schedule_on_skip`, after a norm above `limit`."""
        lr, clips = self.lr, self.seen >= self.cfg.clip_from  # before that norms neither clip nor skip
        self.seen += 1
        if self.agree(not all(bool(torch.isfinite(loss).all()) for loss in losses)):
            self.optimizer.zero_grad(set_to_none=True)
            return Update(math.nan, lr, "nonfinite")
        norm = self._clip(clips)
        skip = "norm" if clips and self.cfg.allowed_gradnorm_factor > 0 and not norm <= self.limit else None
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("rate_scale", 1.0)
        scale = self.scaler.get_scale()
        if not skip:
            self.scaler.step(self.optimizer)  # not at all where a gradient overflowed: then the scale falls
        self.scaler.update()
        skip = "overflow" if not skip and self.scaler.get_scale() < scale else skip
        self.applied += skip is None
        self.optimizer.zero_grad(set_to_none=True)
        self.scheduled += int(skip is None or self.cfg.schedule_on_skip)
        return Update(norm, lr, skip)

    def _clip(self, clip: bool = True) -> float:
        self.scaler.unscale_(self.optimizer)
        for gradient in (parameter.grad for parameter in self.parameters if parameter.grad is not None):
            gradient.nan_to_num_(nan=0.0, posinf=INFINITE_GRADIENT, neginf=-INFINITE_GRADIENT)
        return float(nn.utils.clip_grad_norm_(self.parameters, self.cfg.clip_norm if clip else math.inf))

    def state_dict(self) -> dict[str, Any]:
        """Counters and, for fp16, the loss scale."""
        scale = self.scaler.state_dict()
        return {"seen": self.seen, "scheduled": self.scheduled, "applied": self.applied, "scaler": scale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.seen, self.scheduled, self.applied = state["seen"], state["scheduled"], state["applied"]
        self.scaler.load_state_dict(state["scaler"])
