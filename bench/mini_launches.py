"""Operators a training step of scale mini dispatches, about one kernel of a GPU each: `python bench/mini_launches.py`.

Forward, loss, backward and gradient clipping of one step are counted on the CPU at a small image size, which does not
change their number; views and allocations are left out. What grows with the scenes of a batch is counted at two batch
sizes and extended to the recipe's: an upper bound for the Gaussians' renders, which a GPU blends in one pass and a CPU
one by one; and LaCT's products are rounded operand by operand here, which a GPU does within them. AdamW is one fused
kernel on a GPU and not counted."""

from collections.abc import Sequence
from typing import Any

import torch
from common import append
from mini_systems import made_up
from torch.utils._python_dispatch import TorchDispatchMode

from novelview.config.plan import Plan
from novelview.config.stages import TrainStage
from novelview.models.registry import build

SIDES = {"depthsplat": 64}  # pixels; 56 for the others
FREE = (
    "view",
    "reshape",
    "expand",
    "slice",
    "select",
    "transpose",
    "permute",
    "unsqueeze",
    "squeeze",
    "split",
    "detach",
)
FREE += (
    "empty",
    "alias",
    "unbind",
    "as_strided",
    "t.default",
    "unflatten",
    "unsafe_view",
    "set_",
    "_local_scalar",
    "lift",
)


class Counter(TorchDispatchMode):
    """Counts the operators that would start a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Sequence[Any], args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).removeprefix("aten.")
        self.count += not name.lstrip("_").startswith(FREE)
        return func(*args, **(kwargs or {}))


def launches(model: torch.nn.Module, cfg: TrainStage, scenes: int) -> int:
    """Return the operators of one step on `scenes` scenes."""
    model.zero_grad(set_to_none=True)
    side = SIDES.get(cfg.model.name, 56)
    context, target = (made_up(count, side, side, scenes) for count in (cfg.views.num_context, cfg.views.num_target))
    with Counter() as counter, torch.autocast("cpu", torch.bfloat16, enabled=cfg.train.amp == "bf16"):
        images = model(context, target).images
        assert target.images is not None
        (images - target.images).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=False)
    return counter.count


def row(plan: Plan, name: str) -> dict[str, object]:
    """Return the row of a system's pretraining."""
    cfg: TrainStage = plan.composed("train", name, "pretrain")
    torch.manual_seed(0)
    model = build(cfg.model).train()
    model.activation_checkpointing = False
    few, more = (launches(model, cfg, scenes) for scenes in (1, 2))
    scenes = cfg.train.batch_size
    return {
        "run": name,
        "operators_at_1": few,
        "operators_at_2": more,
        "scenes": scenes,
        "operators": few + (more - few) * (scenes - 1),
    }


def main() -> None:
    """Append and print the rows."""
    plan = Plan({"study": "mini", "scale": "mini"})
    append("mini_launches", [row(plan, name) for name in plan.study.models if not name.endswith("_pm")])


if __name__ == "__main__":
    main()
