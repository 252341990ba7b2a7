"""What a first run on GPUs meets, without one: no value read back, no CPU tensor mixed in, no break in a compiled
graph, and two processes that train what one trains."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import DINO, NAMES, config, model_of, views
from tiny_splats import depthsplat, posed_views
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

from novelview.config.models import TransformerConfig
from novelview.config.schema import LossConfig, PointmapLossConfig
from novelview.losses.photometric import TrainingLoss
from novelview.models.registry import build
from novelview.models.render import ViewModel
from novelview.scenes.batch import Batch, Views
from novelview_kernels import backend, table

META = torch.device("meta")


def on_meta(part: Views) -> Views:
    values = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    return Views(**{name: value.to(META) if isinstance(value, Tensor) else value for name, value in values.items()})


def step(model: nn.Module, context: Views, target: Views, losses: LossConfig) -> dict[str, Tensor]:
    """Render, judge, and let the gradient flow back, as a training step does."""
    loss = TrainingLoss(losses).to(context.c2w.device)
    values = loss(model(context, target), Batch(["a"] * len(context.c2w), context, target))
    values["loss"].backward()
    return values


SPLATS: dict[str, dict[str, Any]] = {
    "depthsplat": {},
    "depthsplat_pm": {"supervise_all_scales": False},
}


@pytest.mark.parametrize("name", [*NAMES, *SPLATS])
def test_a_training_step_computes_on_meta_tensors_alone(name: str) -> None:
    """The device `meta` has no values to read and refuses operands of two devices, as a GPU does."""
    splat = name in SPLATS
    model = depthsplat(**SPLATS[name]) if splat else model_of(name)
    context, target = (posed_views(2), posed_views(1, seed=1)) if splat else (views(2, 1), views(2, 2))
    context, target = on_meta(context), on_meta(target)
    losses = LossConfig(perceptual=0.0)
    if name == "depthsplat_pm":
        losses.pointmap = PointmapLossConfig(weight=0.1)
        context.points = torch.zeros(1, 2, 3, 32, 32, device=META)
    model = model.to(META).train()
    values = step(model, context, target, losses)
    assert values["loss"].device == META and values["loss"].shape == ()
    given = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert given and all(one.grad is not None and one.grad.device == META for one in given if one.numel())


class Traced(Exception):
    """Ends a compiled call once its whole graph is known: kernels for a GPU cannot run here."""


@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_every_transformer_is_one_graph_on_the_path_of_cuda_tensors(name: str, ours: bool, monkeypatch) -> None:
    """With the table as it is, and with one that says our kernels are faster, which are then in the graph."""
    graphs: list[torch.fx.GraphModule] = []

    def trace(graph: torch.fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        raise Traced

    monkeypatch.setattr(backend, "gpu", lambda x: 90)
    if ours:
        monkeypatch.setattr(table, "fastest", lambda *_: table.Found("triton", 1))
    wide: dict[str, Any] = {"transformer": TransformerConfig(d=64, d_head=32)}  # our kernels have no narrower heads
    wide |= {"dino": dataclasses.replace(DINO, embed_dim=64)} if name in ("ptlvsm", "uplvsm") else {}
    model = build(config(name, **wide)).train()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend=trace, fullgraph=True)
    with pytest.raises(Exception) as caught, torch.autocast("cpu", torch.bfloat16):
        compiled(views(2, 1), views(2, 2))
    assert len(graphs) == 1, caught.value
    called = {str(node.target) for node in graphs[0].graph.nodes if node.op == "call_function"}
    assert any("novelview" in target for target in called) == ours


def _gradients(model: ViewModel, context: Views, target: Views, wrapped: nn.Module | None = None) -> list[Tensor]:
    step(wrapped or model, context, target, LossConfig(perceptual=0.0))
    return [torch.zeros(0) if one.grad is None else one.grad for one in model.parameters()]


def _of(name: str) -> tuple[ViewModel, Views, Views]:
    if name == "depthsplat":
        return depthsplat(), posed_views(2, scenes=2), posed_views(1, scenes=2, seed=1)
    return model_of(name), views(2, 1), views(2, 2)


def _work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    for name in (*NAMES, "depthsplat"):
        model, context, target = _of(name)
        wrapped = DistributedDataParallel(model, broadcast_buffers=False)
        parts = (_rows(part, rank) for part in (context, target))
        found = _gradients(model, *parts, wrapped)
        torch.save(found, f"{folder}/{name}-{rank}.pt")
    time.sleep(0.2)  # as `novelview.devices.team` does, and for its reason
    distributed.destroy_process_group()


def _rows(part: Views, rank: int) -> Views:
    values = (getattr(part, field.name) for field in dataclasses.fields(part))
    return Views(*(None if value is None else value[rank : rank + 1] for value in values))


def test_two_processes_train_what_one_trains(tmp_path: Path) -> None:
    multiprocessing.spawn(_work, (str(tmp_path),), nprocs=2)
    for name in (*NAMES, "depthsplat"):
        found = [torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=True) for rank in range(2)]
        assert all(torch.equal(one, other) for one, other in zip(*found, strict=True)), name
        alone = _gradients(*_of(name))
        for one, whole in zip(found[0], alone, strict=True):
            assert one.shape == whole.shape and (one - whole).norm() <= 1e-4 * whole.norm() + 1e-9, name
