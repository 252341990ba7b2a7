"""Which device a process works on, and precision there."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from novelview.errors import ConfigError


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """Return the device for `runtime.device`: auto takes a GPU when there is one."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError("runtime.device=cuda: no usable GPU here; set runtime.device=cpu or auto")
    if name == "cpu" or not available:
        return torch.device("cpu")
    return torch.device("cuda", local_rank)


def full_precision(value: Tensor) -> AbstractContextManager[Any]:
    """Return the context without autocast on the device of `value`; tensors on `meta` know no autocast at all."""
    return nullcontext() if value.is_meta else torch.autocast(value.device.type, enabled=False)
