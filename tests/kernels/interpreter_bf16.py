"""bfloat16 for Triton's interpreter, whose own is wrong: products are garbage and casts truncate (3.6.0 to 3.9.0).

Values travel as 16-bit patterns; here they are widened to float32 for arithmetic and rounded to nearest even on the
way back. The hooks are private to Triton: `test_bf16_canary` fails when they stop taking effect."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import triton.language as tl
import triton.runtime.interpreter as interpreter

from novelview_kernels import backend

HOOKS = ("create_dot", "binary_op", "cast_impl", "create_fp_ext", "create_fp_trunc", "unary_op")


def _is_bf16(handle: Any) -> bool:
    return getattr(handle, "dtype", None) is not None and handle.dtype.scalar == tl.bfloat16


def _widened(handle: Any) -> Any:
    if not _is_bf16(handle):
        return handle
    wide = (handle.data.astype(np.uint32) << 16).view(np.float32)
    return interpreter.TensorHandle(wide, tl.float32)


def _rounded(values: np.ndarray) -> Any:
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    nearest = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return interpreter.TensorHandle(np.where(np.isnan(values), np.uint16(0x7FC0), nearest), tl.bfloat16)


def _product(original: Callable[..., Any]) -> Callable[..., Any]:
    def create_dot(self: Any, a: Any, b: Any, d: Any, *rest: Any, **options: Any) -> Any:
        return original(self, _widened(a), _widened(b), d, *rest, **options)

    return create_dot


def _binary(original: Callable[..., Any]) -> Callable[..., Any]:
    def binary_op(self: Any, a: Any, b: Any, op: Callable[..., np.ndarray]) -> Any:
        if not (_is_bf16(a) or _is_bf16(b)):
            return original(self, a, b, op)
        out = op(_widened(a).data, _widened(b).data)
        return interpreter.TensorHandle(out, tl.int1) if out.dtype == np.bool_ else _rounded(out)

    return binary_op


def _unary(original: Callable[..., Any]) -> Callable[..., Any]:
    def unary_op(self: Any, a: Any, op: Callable[..., np.ndarray]) -> Any:
        return _rounded(op(_widened(a).data)) if _is_bf16(a) else original(self, a, op)

    return unary_op


def _cast(original: Callable[..., Any]) -> Callable[..., Any]:
    def cast(self: Any, source: Any, target: Any) -> Any:
        kinds = source.dtype.scalar, target.scalar
        if kinds == (tl.float32, tl.bfloat16):
            return _rounded(source.data)
        return _widened(source) if kinds == (tl.bfloat16, tl.float32) else original(self, source, target)

    return cast


@contextmanager
def installed() -> Iterator[None]:
    """Replace the interpreter's bfloat16 arithmetic inside a `with` block."""
    builder: Any = interpreter.InterpreterBuilder
    before = {name: getattr(builder, name) for name in HOOKS}
    cast = _cast(before["cast_impl"])
    builder.create_dot, builder.binary_op = _product(before["create_dot"]), _binary(before["binary_op"])
    builder.unary_op = _unary(before["unary_op"])
    builder.cast_impl = builder.create_fp_ext = builder.create_fp_trunc = cast
    backend.interpreter_has_bfloat16 = True
    try:
        yield
    finally:
        backend.interpreter_has_bfloat16 = False
        for name, hook in before.items():
            setattr(builder, name, hook)
