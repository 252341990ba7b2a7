"""Floating-point operations and parameters of the models, by PyTorch's counter (2 per multiply-add), on tensors of the
device `meta`, which have shapes and no values. Counted are convolutions, matrix products and attention, which is all
but a per cent or two of a model's work."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from novelview.config.models import ModelConfig
from novelview.config.schema import ViewsConfig, sides
from novelview.config.stages import TrainStage
from novelview.losses.photometric import PerceptualLoss, shapes
from novelview.models.depthsplat.model import DepthSplat
from novelview.models.registry import build
from novelview.models.render import ViewModel
from novelview.scenes.batch import Views

Answer = TypeVar("Answer")


def _remembered(count: Callable[..., Answer]) -> Callable[..., Answer]:
    """Keep answers in this process by the text of what was asked, because configurations have no hash."""
    known: dict[str, Answer] = {}

    @functools.wraps(count)
    def ask(*asked: Any) -> Answer:
        key = repr(asked)
        if key not in known:
            known[key] = count(*asked)
        return known[key]

    return ask


@_remembered
def _model(node: ModelConfig) -> ViewModel:
    with torch.device("meta"):
        return build(node.without_weights()).eval()


def _counted(call: Callable[[], object]) -> int:
    plain = sdpa_kernel(SDPBackend.MATH)  # the counter knows its products on every device, the fused form on some
    with torch.device("meta"), torch.no_grad(), plain, FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


@_remembered
def forward(node: ModelConfig, views: ViewsConfig, contexts: int, targets: int) -> int:
    """Return the operations of rendering `targets` views of one scene; of DepthSplat all but the splatting."""
    model, (height, width) = _model(node), sides(views)

    def blank(count: int) -> Views:
        return Views(torch.empty(1, count, 3, height, width), torch.empty(1, count, 4, 4), torch.empty(1, count, 4))

    if isinstance(model, DepthSplat):
        return _counted(lambda: model.encode(blank(contexts)))
    return _counted(lambda: model(blank(contexts), blank(targets)))


def training_step(cfg: TrainStage) -> int:
    """Return the operations of one training step of one process: forward, backward (twice a forward), recomputation and
    losses; a perceptual loss sees both images forward and the render backward."""
    views, train, losses = cfg.views, cfg.train, cfg.train.losses
    own = forward(cfg.model, views, views.num_context, views.num_target)
    perceptual = ((losses.perceptual > 0) + (losses.lpips > 0)) * views.num_target * vgg(*sides(views))
    passes = 4 if train.activation_checkpointing else 3
    return train.batch_size * train.grad_accum * (passes * own + 3 * perceptual)


@_remembered
def vgg(height: int, width: int) -> int:
    """Return the operations of the perceptual network on one image."""

    def one() -> None:
        layers = [(torch.empty(out, into, 3, 3), torch.empty(out)) for into, out in shapes()]
        PerceptualLoss(layers).features(torch.empty(1, 3, height, width))

    return _counted(one)


def parameters(node: ModelConfig) -> int:
    """Return how many parameters a model has."""
    return sum(parameter.numel() for parameter in _model(node).parameters())
