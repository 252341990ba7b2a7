"""Launch kernels, or record what a launch would compile: the compile gate sees exactly what the operators run.

Triton is imported only where a kernel is needed, so that the package imports without it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from novelview_kernels import backend

TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.int32: "i32"}
INTERPRET = 0  # stands in for a compute capability when Triton interprets


@dataclass
class Specimen:
    """One compilation: a kernel, the types of its arguments, its constants and launch options."""

    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any]
    aligned: set[str]
    warps: int
    stages: int

    def key(self) -> tuple[object, ...]:
        """Return what tells compilations apart."""
        parts = (self.types, self.constants, dict.fromkeys(self.aligned))
        return (self.kernel.__name__, *(tuple(sorted(part.items())) for part in parts), self.warps, self.stages)


@dataclass
class Recording:
    """Launches asked for while recording for one compute capability."""

    cc: int
    specimens: list[Specimen] = field(default_factory=list)


_recording: Recording | None = None


@contextmanager
def record(cc: int) -> Iterator[Recording]:
    """Record launches for compute capability `cc` instead of running them; tensors may be on the meta device."""
    global _recording
    before, _recording = _recording, Recording(cc)
    try:
        yield _recording
    finally:
        _recording = before


def target(x: Tensor) -> int:
    """Return the compute capability that launches on `x` are configured for; INTERPRET for CPU tensors."""
    if _recording is not None:
        return _recording.cc
    return backend.gpu(x) or INTERPRET


def launch(
    kernel: Any, grid: Sequence[int], arguments: dict[str, Any], constants: dict[str, Any], warps: int, stages: int
) -> None:
    """Run a Triton kernel over `grid`, or record it."""
    if _recording is not None:
        _recording.specimens.append(_specimen(kernel, arguments, constants, warps, stages))
    elif min(grid) > 0:
        kernel[tuple(grid)](**arguments, **constants, num_warps=warps, num_stages=stages)


def _specimen(kernel: Any, arguments: dict[str, Any], constants: dict[str, Any], warps: int, stages: int) -> Specimen:
    fixed = {kernel.arg_names[index] for index in _names(kernel)}
    types: dict[str, str] = {}
    ones: dict[str, Any] = {}
    aligned: set[str] = set()
    for name, value in arguments.items():
        if isinstance(value, Tensor):
            types[name] = "*" + TYPES[value.dtype]
            aligned.add(name)
        elif isinstance(value, float):
            types[name] = "fp32"
        elif value == 1 and name not in fixed:
            ones[name] = 1  # Triton compiles an integer that is 1 as a constant
        else:
            types[name] = "i32" if value < 2**31 else "i64"
            if value % 16 == 0 and name not in fixed:
                aligned.add(name)
    return Specimen(kernel, types, {**constants, **ones}, aligned, warps, stages)


def _names(kernel: Any) -> list[int]:
    return [index for index, parameter in enumerate(kernel.params) if parameter.do_not_specialize]


def kernels(load: Callable[[], Any]) -> Any:
    """Import a module of kernels; in interpret mode Triton is told first."""
    if _recording is None and backend.interpreting():
        backend.prepare_interpreter()
    return load()


def blocks(total: int, size: int) -> int:
    """Return how many blocks of `size` cover `total`."""
    return -(-total // size)
