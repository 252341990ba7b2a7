"""Which device a process works on."""

import torch

from novelview.errors import ConfigError


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """Return the device for `runtime.device`: auto takes a GPU when there is one."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError("runtime.device=cuda: no usable GPU here; set runtime.device=cpu or auto")
    if name == "cpu" or not available:
        return torch.device("cpu")
    return torch.device("cuda", local_rank)
