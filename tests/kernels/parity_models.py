"""The models of the parity fixtures, run with our kernels interpreted or in PyTorch: renderings and gradients."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from novelview.scenes.batch import Views
from novelview_kernels import backend

sys.path.append(str(Path(__file__).parents[1] / "parity"))  # the parity tests' own way to build these models

import discovery
import transformer_fixture

ATTENTION = ["lvsm_decoder_only", "lvsm_encoder_decoder", "ptlvsm", "uplvsm"]
LACT = ["lact/model_d64_h1_2x", "lact/model_d32_h2_4x"]
RENDERING = "rendering"


def results(name: str, mode: str, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Return the rendering and all gradients of the mean squared error of a fixture's model, in float64."""
    folder = discovery.DEFAULT / name
    config, kind = json.loads((folder / "config.json").read_text()), discovery.load_kind(discovery.kind_of(folder))
    own = getattr(kind, "_views", None)
    pair = own(folder, config) if own else transformer_fixture.load_views(folder, config, "train")
    context, target = (_cast(views, dtype) for views in pair)
    assert kind is not None
    model = kind._model(folder, config).to(dtype).train()
    with backend.use(mode):
        images = model(context, target).images
        (images - target.images).square().mean().backward()
    found = {RENDERING: images.detach()} | {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {name: value.double() for name, value in found.items()}


def _cast(views: Views, dtype: torch.dtype) -> Views:
    assert views.images is not None
    images, c2w, lenses = (value.to(dtype) for value in (views.images, views.c2w, views.intrinsics))
    return replace(views, images=images, c2w=c2w, intrinsics=lenses)


def apart(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    """Return the relative L2 distance of every tensor, and of all gradients joined."""
    assert ours.keys() == theirs.keys()
    pairs = {name: (ours[name], theirs[name]) for name in theirs}
    pairs["all gradients"] = _joined(ours), _joined(theirs)
    return {name: float((a - b).norm() / b.norm().clamp_min(1e-30)) for name, (a, b) in pairs.items()}


def _joined(values: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.flatten() for name, value in values.items() if name != RENDERING])
