"""Which implementation an operator runs on: `NOVELVIEW_KERNELS` = auto, triton, torch or interpret."""

import functools
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from novelview_kernels import table

log = logging.getLogger("novelview_kernels")

VARIABLE = "NOVELVIEW_KERNELS"
MODES = ("auto", "triton", "torch", "interpret")
_SAID: set[str] = set()


def prepare_interpreter() -> None:
    """Have Triton interpret kernels; PyTorch imports Triton by itself, so this comes before any operator is called.

    Raises:
        RuntimeError: Triton was imported before, set to compile; its own functions are compiled functions then."""
    if "triton" not in sys.modules:
        os.environ["TRITON_INTERPRET"] = "1"
    elif os.environ.get("TRITON_INTERPRET") != "1":
        raise RuntimeError(
            f"Triton was imported before {VARIABLE}=interpret took effect; start with TRITON_INTERPRET=1"
        )


def _from_environment() -> str:
    value = os.environ.get(VARIABLE, "auto")
    if value not in MODES:
        raise ValueError(f"{VARIABLE}={value!r} is none of {', '.join(MODES)}; unset it or choose one of them")
    if value == "interpret":
        prepare_interpreter()
    return value


# A module constant rather than a look at the environment at every call: torch.compile guards on it.
_mode = _from_environment()


def mode() -> str:
    """Return the mode in force: the value of NOVELVIEW_KERNELS when the package was imported, or `use`'s."""
    return _mode


@contextmanager
def use(value: str) -> Iterator[None]:
    """Put another mode in force inside a `with` block."""
    global _mode
    if value not in MODES:
        raise ValueError(f"mode {value!r} is none of {', '.join(MODES)}")
    before, _mode = _mode, value
    try:
        yield
    finally:
        _mode = before


def say_once(message: str) -> None:
    """Log a message the first time it comes up; under torch.compile nothing is logged."""
    if not torch.compiler.is_compiling() and message not in _SAID:
        _SAID.add(message)
        log.info(message)


def gpu(x: Tensor) -> int:
    """Return the compute capability of the GPU on which a tensor lies as 80, 90, ...; 0 on a CPU."""
    return capability(x.device.index or 0) if x.is_cuda else 0


@torch.compiler.assume_constant_result  # torch.compile asks once, while it traces
@functools.cache
def capability(index: int) -> int:
    """Return the compute capability of a CUDA device as 80, 90, ..."""
    major, minor = torch.cuda.get_device_capability(index)
    return 10 * major + minor


def choose(op: str, x: Tensor, supported: str, sizes: Mapping[str, int]) -> str:
    """Return how to run `op` on tensors like `x`: "triton", "interpret" or "torch" (plain PyTorch, its own autograd).

    Args:
        supported: empty, or why no kernel of ours covers these tensors.
        sizes: the sizes that the measured table knows the operator by.

    Raises:
        ValueError: triton or interpret is demanded for tensors it cannot take."""
    if _mode == "torch":
        return "torch"
    if _mode == "interpret":
        return _demanded("interpret", op, "it runs CPU tensors only" if gpu(x) else supported)
    if _mode == "triton":
        return _demanded("triton", op, supported if gpu(x) else "it needs CUDA tensors")
    if not gpu(x) or supported:
        say_once(f"{op}: PyTorch ({supported or 'CPU tensors'})")
        return "torch"
    return _measured(op, x, sizes)


def _demanded(value: str, op: str, problem: str) -> str:
    if problem:
        raise ValueError(f"{VARIABLE}={value}, but {op} cannot: {problem}; use {VARIABLE}=auto")
    say_once(f"{op}: {value} ({VARIABLE})")
    return value


def _measured(op: str, x: Tensor, sizes: Mapping[str, int]) -> str:
    cc = gpu(x)
    dtype = str(x.dtype).removeprefix("torch.")
    found = table.fastest(op, cc, dtype, torch.is_grad_enabled(), sizes)
    say_once(f"{op}: {found} for {dtype} {dict(sizes)} on sm_{cc} ({table.reason(found)})")
    return found.choice


def interpreting() -> bool:
    """Whether kernels run through Triton's interpreter."""
    return _mode == "interpret"


# Set by what corrects it: Triton's interpreter multiplies bfloat16 to garbage without a word (3.6.0 to 3.9.0).
interpreter_has_bfloat16 = False


def misinterpreted(dtype: torch.dtype) -> str:
    """Return why tensors of this type may not be interpreted now, or an empty string."""
    if interpreting() and dtype == torch.bfloat16 and not interpreter_has_bfloat16:
        return "Triton's interpreter computes bfloat16 wrongly; float32 and float16 are exact"
    return ""
