"""The fast-weight operation of LaCT against the reference in float64: answers, weights, all nine gradients."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformer_fixture import relative

from novelview.models.ttt import FastWeights, Span, ttt_update_apply

FLOAT32_TOLERANCE = 1e-4  # relative L2 (specs/lact.md section 11)
FLOAT64_TOLERANCE = 1e-7  # what storing the expected values in float32 leaves
INPUTS = ("w0", "w1", "w2", "q", "k", "v", "lr0", "lr1", "lr2")


def _run(
    folder: Path, case: dict[str, Any], dtype: torch.dtype, precision: str = "accurate"
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return ours and theirs by recorded name."""
    fixture = load_file(folder / f"case{case['case']:02d}.safetensors")
    given = {name: fixture[f"in.{name}"].to(dtype).requires_grad_() for name in INPUTS}
    w0, w1, w2, q, k, v, *rates = given.values()
    lr = torch.stack([rate.squeeze(-1) for rate in rates])
    rows = [Span(*row) for row in case["order"]]
    answers, weights = ttt_update_apply(FastWeights(w0, w1, w2), q, k, v, lr, rows, case["muon_steps"], precision)
    ours = {"out.o": answers} | {f"out.{name}": w for name, w in weights._asdict().items()}
    loss = sum((value * fixture[name.replace("out.", "in.cot_")].to(dtype)).sum() for name, value in ours.items())
    assert isinstance(loss, Tensor)
    gradients = torch.autograd.grad(loss, list(given.values()), materialize_grads=True)
    ours |= {f"grad.{name}": gradient for name, gradient in zip(given, gradients, strict=True)} | {"loss": loss}
    return ours, fixture


def _compare(folder: Path, config: dict[str, Any], dtype: torch.dtype, tolerance: float) -> None:
    assert config["cases"]
    for case in config["cases"]:
        ours, theirs = _run(folder, case, dtype)
        recorded = {name for name in theirs if name.startswith(("out.", "grad.")) and not name.endswith(".ns_bf16")}
        assert recorded == set(ours) - {"loss"}
        for name in recorded:
            assert relative(ours[name], theirs[name]) <= tolerance, f"case {case['case']}: {name}"
        assert ours["loss"].item() == pytest.approx(case["loss_float64"], rel=tolerance, abs=tolerance)


def check_float32(folder: Path, config: dict[str, Any]) -> None:
    _compare(folder, config, torch.float32, FLOAT32_TOLERANCE)


def check_float64(folder: Path, config: dict[str, Any]) -> None:
    _compare(folder, config, torch.float64, FLOAT64_TOLERANCE)


def check_reference_precision(folder: Path, config: dict[str, Any]) -> None:
    """With a bfloat16 Newton-Schulz our answers are nearer to the reference's than those are to float64's."""
    for case in config["cases"]:
        ours, theirs = _run(folder, case, torch.float32, "reference")
        theirs_error = relative(theirs["out.o.ns_bf16"], theirs["out.o"])
        assert relative(ours["out.o"], theirs["out.o.ns_bf16"]) <= theirs_error + FLOAT64_TOLERANCE, case["case"]
