"""Why LaCT's gradients in float32 carry five digits: `python bench/kernels_float32.py`.

The parity fixtures' LaCT models in PyTorch: errors against float64 in float32, with the weight gradients G or
Newton-Schulz computed in float64 instead, and what moving all parameters by half a unit in the last place changes in
float64. Rows go to results/kernels_float32.csv."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "kernels"))

import parity_models as parity
import torch
from common import append
from torch import Tensor, nn

from novelview_kernels.ttt import closed_form
from novelview_kernels.ttt.reference import FastWeights

SHARE = 2.0**-24  # half a unit in the last place of float32, relative


def _gradients_in_float64(call: Callable[..., Any]) -> Callable[..., Any]:
    def gradients(weights: FastWeights, k: Tensor, v: Tensor, rates: Tensor, operands: None) -> Any:
        wide = FastWeights(*(w.double() for w in weights))
        return tuple(g.float() for g in call(wide, k.double(), v.double(), rates.double(), operands))

    return gradients


def _in_float64(call: Callable[..., Any]) -> Callable[..., Any]:
    """Compute a function of tensors, or lists of them, in float64 and round what it returns."""

    def wide(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.double()
        return [x.double() for x in value] if isinstance(value, list) else value

    def run(*given: Any) -> Any:
        found = call(*map(wide, given))
        return found.float() if isinstance(found, Tensor) else [x.float() for x in found]

    return run


GRADIENTS = {"_gradients": _gradients_in_float64}
NEWTON_SCHULZ = {name: _in_float64 for name in ("newton_schulz", "iterates", "newton_schulz_backward")}
WIDE = {"nothing": {}, "G": GRADIENTS, "Newton-Schulz": NEWTON_SCHULZ, "G and Newton-Schulz": GRADIENTS | NEWTON_SCHULZ}


def errors(name: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a model."""
    truth = parity.results(name, "torch", torch.float64)
    for what, replaced in WIDE.items():
        with ExitStack() as stack:
            for function, change in replaced.items():
                stack.enter_context(patch.object(closed_form, function, change(getattr(closed_form, function))))
            found = parity.apart(parity.results(name, "torch"), truth)
        yield _row(name, f"float32, in float64: {what}", found)
    with patch.object(nn.Module, "train", _moved):
        found = parity.apart(parity.results(name, "torch", torch.float64), truth)
    yield _row(name, "float64, parameters moved by half a unit", found)


def _moved(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(1 + SHARE * (2 * torch.rand(value.shape, generator=generator, dtype=value.dtype) - 1))
    return model


def _row(name: str, how: str, found: dict[str, float]) -> dict[str, Any]:
    return {"model": name, "computed": how} | {t: f"{found[t]:.2e}" for t in (parity.RENDERING, "all gradients")}


if __name__ == "__main__":
    for model in parity.LACT:
        append("kernels_float32", list(errors(model)))
