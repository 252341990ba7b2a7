"""Kernels on CPU: Triton interprets them in this process; fixtures for modes, bfloat16 and poisoned outputs."""

import os
from collections.abc import Callable, Iterator

import pytest
import torch

# Before anything imports Triton, as PyTorch does when an operator is first called.
os.environ["TRITON_INTERPRET"] = "1"

from novelview_kernels import backend

backend.prepare_interpreter()


@pytest.fixture
def interpret() -> Iterator[None]:
    """Run operators through Triton's interpreter."""
    with backend.use("interpret"):
        yield


@pytest.fixture
def bf16(interpret: None) -> Iterator[None]:
    """Give the interpreter correct bfloat16 arithmetic."""
    from interpreter_bf16 import installed

    with installed():
        yield


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill every newly allocated tensor with NaN, so that an element nobody writes shows."""

    def poisoning(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def made(*args: object, **kwargs: object) -> torch.Tensor:
            out = make(*args, **kwargs)
            return out.fill_(float("nan")) if out.is_floating_point() else out

        return made

    with torch.device("cpu"):  # collects its constructors once a process: the true ones, for tests that come later
        torch.zeros(0)
    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, poisoning(getattr(owner, name)))
