"""What our kernels' results are worth without a GPU: `python bench/kernels_errors.py operators|models`.

Both go through Triton's interpreter. operators: the checks of the GPU suite in bfloat16 (which the tests' equipment
corrects) at small sizes; one row a (case, tensor) with the errors of ours and of the published order of roundings
against float64, in results/kernels_errors.csv. models: the models of the parity fixtures in float32, ours beside
PyTorch and both against float64, in results/kernels_models.csv."""

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"  # before PyTorch imports Triton
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "kernels"))

import torch
from common import append

from novelview_kernels import backend
from novelview_kernels.gpu import attention_checks, ttt_checks
from novelview_kernels.gpu.verdicts import Verdict


def operators() -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of a case, one a tensor."""
    from interpreter_bf16 import installed

    checks: list[Any] = [(attention_checks.check, case) for case in attention_checks.interpreted()]
    checks += [(ttt_checks.check, case) for case in ttt_checks.interpreted()]
    with installed():
        for check, case in checks:
            yield [_row(verdict) for verdict in check(case, "cpu", "interpret")]


def _row(verdict: Verdict) -> dict[str, Any]:
    errors = {"ours": f"{verdict.ours:.3e}", "theirs": f"{verdict.theirs:.3e}"}
    return {**verdict._asdict(), **errors, "ratio": round(verdict.ours / max(verdict.theirs, 1e-30), 3)}


def models() -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of a model: the rendering, all gradients joined, and the gradient that is farthest apart."""
    import parity_models as parity

    for name in (*parity.ATTENTION, *parity.LACT):
        ours, theirs = parity.results(name, "interpret"), parity.results(name, "torch")
        truth = parity.results(name, "torch", torch.float64)
        between = parity.apart(ours, theirs)
        far = [tensor for tensor in between if not tensor.endswith("lr_fc.bias")]  # has no digits left: cancellation
        chosen = dict.fromkeys([parity.RENDERING, "all gradients", max(far, key=between.__getitem__)])
        errors = [parity.apart(values, truth) for values in (ours, theirs)]
        found = [(tensor, between[tensor], *(error[tensor] for error in errors)) for tensor in chosen]
        names = ("tensor", "apart", "ours", "theirs")
        yield [{"model": name} | dict(zip(names, (t, *(f"{x:.2e}" for x in e)), strict=True)) for t, *e in found]


def main() -> None:
    """Append the rows; of the operators print the worst ratio of every tensor, and what would not pass."""
    parser = argparse.ArgumentParser(description="Errors of interpreted kernels beside PyTorch's.")
    parser.add_argument("which", choices=["operators", "models"])
    which = parser.parse_args().which
    backend.prepare_interpreter()
    if which == "models":
        for rows in models():
            append("kernels_models", rows)
        return
    found: list[dict[str, Any]] = []
    for rows in operators():
        append("kernels_errors", rows)
        found += rows
    for tensor in dict.fromkeys(row["tensor"] for row in found):
        print(f"{tensor:5} worst ratio {max(row['ratio'] for row in found if row['tensor'] == tensor):.3f}")
    print(f"{len(found)} tensors, {sum(not row['passed'] for row in found)} beyond what passes")


if __name__ == "__main__":
    main()
