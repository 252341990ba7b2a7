"""The LPIPS network of the lpips package on a backbone from disk; nothing is ever downloaded."""

from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from novelview.errors import DataError

# layers of torchvision's VGG-16 in the blocks slice1 to slice5 of the lpips package
CONVOLUTIONS = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
SCHEMAS = {  # of the operators that torchvision's Python code expects its compiled library to define
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_LIBRARY: list[Any] = []  # a library's definitions live as long as the object


def load_lpips(weights: Path | str) -> nn.Module:
    """Build LPIPS 0.1 on torchvision's `vgg16-397923af.pth`, frozen, in evaluation mode, or raise DataError."""
    if not Path(weights).is_file():
        raise DataError(f"{weights}: no such file; fetch vgg16, or give LPIPS no weight in the loss")
    try:
        found: Any = torch.load(weights, map_location="cpu", weights_only=True)
        layers = [(f"slice{block}", layer) for block, layers in enumerate(CONVOLUTIONS, 1) for layer in layers]
        names = [(block, f"{layer}.{name}") for block, layer in layers for name in ("weight", "bias")]
        state = {f"{block}.{name}": found[f"features.{name}"] for block, name in names}
    except Exception as error:  # torch.load fails in as many ways as there are damaged files
        what = f"not torchvision's VGG-16 weights ({type(error).__name__})"
        raise DataError(f"{weights}: {what}; fetch it again") from None
    network = import_lpips().LPIPS(net="vgg", version="0.1", pnet_rand=True, verbose=False)
    try:
        network.net.load_state_dict(state)
    except RuntimeError:
        raise DataError(f"{weights}: these VGG-16 weights have other shapes; fetch vgg16 again") from None
    return network.eval().requires_grad_(False)


def import_lpips() -> ModuleType:
    """Import and return the lpips package, also where its torchvision cannot be imported beside a CPU-only torch.

    0.28.0 registers fake kernels for operators of its compiled library, which does not load there ("operator
    torchvision::nms does not exist"). Defining the two schemas lets the import pass; no operator is called."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name, schema in SCHEMAS.items():
            if not hasattr(torch.ops.torchvision, name):
                library.define(schema)
        _LIBRARY.append(library)
    import lpips

    return lpips
