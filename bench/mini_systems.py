"""The systems of scale mini by their configurations: `python bench/mini_systems.py`.

One row a run of study mini: parameters, counted operations of the training, and what its tensors kept for the backward
pass come to: summed over one scene on the CPU, times the scenes of a batch."""

import torch
from common import append
from torch import Tensor

from novelview.config.plan import Plan
from novelview.config.schema import sides
from novelview.config.stages import TrainStage
from novelview.config.study import Run
from novelview.models.registry import build
from novelview.planning.hours import training_step
from novelview.scenes.batch import Views


def made_up(count: int, height: int, width: int, scenes: int = 1) -> Views:
    """Return views in a row, of random colours, of some scenes."""
    c2w = torch.eye(4).expand(scenes, count, 4, 4).clone()
    c2w[..., 0, 3] = 0.1 * torch.arange(count)
    lens = torch.tensor([width, height, width / 2, height / 2]).expand(scenes, count, 4).clone()
    return Views(torch.rand(scenes, count, 3, height, width), c2w, lens, torch.zeros(scenes, count, dtype=torch.long))


def kept_bytes(model: torch.nn.Module, cfg: TrainStage) -> int:
    """Return the bytes of the distinct tensors that a scene's forward pass keeps, weights left out."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # held, so that no address is used twice
        return value

    half = torch.autocast("cpu", torch.bfloat16, enabled=cfg.train.amp == "bf16")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value), half:
        drawn = model(*(made_up(count, *sides(cfg.views)) for count in (cfg.views.num_context, cfg.views.num_target)))
    found = sum(storage.nbytes() for storage in kept.values())
    assert drawn.images.requires_grad
    return found


def row(plan: Plan, run: Run) -> dict[str, object]:
    """Return the row of a run."""
    cfg: TrainStage = plan.composed("train", run.name, run.phase)
    model, step = build(cfg.model).train(), training_step(cfg)
    model.activation_checkpointing = cfg.train.activation_checkpointing
    return {
        **{"run": run.name, "resolution": run.res, "steps": cfg.train.steps},
        **{"scenes": cfg.train.batch_size, "targets": cfg.views.num_target},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "petaoperations": round(step * cfg.train.steps / 1e15, 3),
        "kept_gigabytes": round(kept_bytes(model, cfg) * cfg.train.batch_size / 1e9, 1),
    }


def main() -> None:
    """Append and print the rows."""
    plan = Plan({"study": "mini", "scale": "mini"})
    append("mini_systems", [row(plan, run) for run in plan.runs()])


if __name__ == "__main__":
    main()
