"""Errors of the kernels in bfloat16 beside PyTorch's, against float64, without a GPU: `python bench/kernels_errors.py`.

The checks of the GPU suite at sizes for Triton's interpreter, whose bfloat16 the tests' equipment corrects. One row a
(case, tensor) in results/kernels_errors.csv: relative L2 errors of ours and of the published order of roundings.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"  # before PyTorch imports Triton
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "kernels"))

from common import append

from novelview_kernels import backend
from novelview_kernels.gpu import attention_checks, ttt_checks
from novelview_kernels.gpu.verdicts import Verdict


def rows() -> Iterator[list[dict[str, Any]]]:
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


def main() -> None:
    """Append the rows; print the worst ratio of every tensor, and what would not pass."""
    backend.prepare_interpreter()
    found: list[dict[str, Any]] = []
    for case in rows():
        append("kernels_errors", case)
        found += case
    for tensor in dict.fromkeys(row["tensor"] for row in found):
        print(f"{tensor:5} worst ratio {max(row['ratio'] for row in found if row['tensor'] == tensor):.3f}")
    print(f"{len(found)} tensors, {sum(not row['passed'] for row in found)} beyond what passes")


if __name__ == "__main__":
    main()
