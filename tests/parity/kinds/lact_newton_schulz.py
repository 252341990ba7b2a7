"""Newton-Schulz against the reference: values, gradient, its bfloat16 result."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformer_fixture import relative

from novelview.models.ttt import newton_schulz_bfloat16
from novelview_kernels.ttt.iterates import iterates, newton_schulz_backward
from novelview_kernels.ttt.reference import FROBENIUS_EPS, A, B, C, newton_schulz

TOLERANCES = {torch.float32: 1e-4, torch.float64: 1e-7}  # relative L2; the expected values are stored in float32
ROUNDING_DECIDES = 0.1  # relative error of the reference's bfloat16 result


def check_constants(folder: Path, config: dict[str, Any]) -> None:
    assert config["constants"] == [A, B, C]
    assert config["eps"] == FROBENIUS_EPS


def check_values_and_gradients(folder: Path, config: dict[str, Any]) -> None:
    """The closed form and autograd, in float32 and float64."""
    fixture = load_file(folder / "cases.safetensors")
    assert config["cases"]
    for case in config["cases"]:
        name = f"case{case['case']:02d}"
        for dtype, tolerance in TOLERANCES.items():
            g, cotangent = (fixture[f"{name}.{part}"].to(dtype) for part in ("G", "cot"))
            g.requires_grad_()
            x = newton_schulz(g, case["steps"])
            (automatic,) = torch.autograd.grad((x * cotangent).sum(), g)
            with torch.no_grad():
                closed = newton_schulz_backward(g, iterates(g, case["steps"]), cotangent)
            for ours, theirs in ((x, "X"), (automatic, "grad_G"), (closed, "grad_G")):
                assert relative(ours, fixture[f"{name}.{theirs}"]) <= tolerance, f"{name} {theirs} {dtype}"


def check_bfloat16(folder: Path, config: dict[str, Any]) -> None:
    """Rounded like the reference: nearer to its result than that is to float64's.

    Left out is what rounding alone decides: singular values so small that five steps blow their noise up."""
    fixture = load_file(folder / "cases.safetensors")
    decided = [case for case in config["cases"] if case["rel_bf16"] < ROUNDING_DECIDES]
    assert decided
    for case in decided:
        name = f"case{case['case']:02d}"
        ours = newton_schulz_bfloat16(fixture[f"{name}.G"], case["steps"], autocast=False)
        assert ours.dtype == torch.bfloat16
        assert relative(ours, fixture[f"{name}.X_bf16"]) <= case["rel_bf16"], name
