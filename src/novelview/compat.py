"""The one workaround: lpips imports torchvision, whose ordinary wheel cannot be imported beside a CPU-only torch.

torchvision 0.28.0's wheel registers fake kernels for the operators `nms` and `qnms` that its compiled library defines;
beside a CPU build of torch that library does not load, and the import fails ("operator torchvision::nms does not
exist"). Defining the two schemas first lets the import pass; no operator is called. With matching wheels the
operators exist and nothing is defined here.
"""

from types import ModuleType
from typing import Any

import torch

SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_LIBRARY: list[Any] = []  # a library's definitions live as long as the object


def import_lpips() -> ModuleType:
    """Import and return the lpips package."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        _define_missing()
    import lpips

    return lpips


def _define_missing() -> None:
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name, schema in SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)
    _LIBRARY.append(library)
