"""The compile gate: shipped kernels to machine code without a GPU, and that the gate sees what it is there to see."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest

from novelview_kernels.inspection import Report, problems

ROOT = Path(__file__).parents[2]
OTHER_TRITON = "3.6.0"  # what the GPU machines carry
# With half the warps the accumulators of dk and dv no longer fit the registers (specs/kernels_feasibility.md 3a).
SPILLING = """
from novelview_kernels import inspection, launch
from novelview_kernels.attention import specimens

with launch.record(90) as recording:
    specimens.LAUNCHES["qk_attention/bfloat16-d64"]()
found = next(s for s in recording.specimens if s.kernel.__name__ == "dkdv_kernel")
found.warps = 4
print(inspection.inspect(inspection.compile_specimen(found, 90), 90).problems)
"""


def _environment(cache: Path, *folders: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("TRITON_INTERPRET", "NOVELVIEW_KERNELS")}
    path = os.pathsep.join(str(folder) for folder in (*folders, ROOT / "kernels"))
    return kept | {"TRITON_CACHE_DIR": str(cache), "PYTHONPATH": path}


def _gate(arguments: list[str], environment: dict[str, str]) -> str:
    command = [sys.executable, "-m", "novelview_kernels.aot", *arguments]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.rstrip().splitlines()[-1].partition(", ")[2].startswith("0 with problems"), run.stdout
    return run.stdout


@pytest.mark.parametrize(
    ("cc", "only"), [("90", "bfloat16-(d64|even)"), ("80", "qk_attention/bfloat16-d64")], ids=["sm_90", "sm_80"]
)
def test_kernels_compile_clean(cc: str, only: str, tmp_path: Path) -> None:
    table = _gate(["--cc", cc, "--only", only], _environment(tmp_path))
    assert "forward_kernel" in table and f"Triton {importlib.metadata.version('triton')}" in table


@pytest.mark.slow
def test_every_shipped_configuration_compiles_clean(tmp_path: Path) -> None:
    _gate([], _environment(tmp_path))


@pytest.mark.slow
def test_every_shipped_configuration_compiles_clean_with_the_other_triton(tmp_path: Path) -> None:
    folder = tmp_path / "triton"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    subprocess.run([*install, f"triton=={OTHER_TRITON}"], check=True)
    table = _gate([], _environment(tmp_path / "cache", folder))
    assert f"Triton {OTHER_TRITON}" in table


def test_the_gate_sees_spills(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SPILLING]
    run = subprocess.run(command, capture_output=True, text=True, env=_environment(tmp_path), check=True)
    assert "spills" in run.stdout


JUDGED = [
    (Report(100, 0, 0, 65536, 8, 0, ("C7515",), ()), 90, "wgmma serialised (C7515)"),
    (Report(100, 0, 0, 65536, 0, 64, (), ()), 90, "no HGMMA"),
    (Report(100, 0, 0, 65536, 0, 0, (), ()), 80, "no HMMA"),
    (Report(100, 16, 0, 65536, 8, 0, (), ()), 90, "spills 0 bytes, stack 16"),
    (Report(100, 8, 0, 166_913, 0, 8, (), ()), 80, "166913 bytes of shared memory exceed 166912"),
]


@pytest.mark.parametrize(("report", "cc", "problem"), JUDGED, ids=[case[2] for case in JUDGED])
def test_reports_are_judged(report: Report, cc: int, problem: str) -> None:
    assert problems(report, cc, dots=True, ptx="") == [problem]


def test_a_register_operand_in_flight_is_a_problem() -> None:
    clean = Report(100, 0, 0, 65536, 8, 0, (), ())
    product = "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%f1,%f2}, {}, %rd1, p, 1, 1, 1;\n"
    wait = "wgmma.wait_group.sync.aligned 1;\n"
    assert problems(clean, 90, True, product.replace("{}", "{%r1,%r2}") + wait)
    assert not problems(clean, 90, True, product.replace("{}", "%rd2") + wait)
    assert not problems(clean, 90, True, product.replace("{}", "{%r1,%r2}") + wait.replace("1", "0"))


def test_an_unknown_configuration_is_an_error(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "novelview_kernels.aot", "--only", "nothing"]
    run = subprocess.run(command, capture_output=True, text=True, env=_environment(tmp_path))
    assert run.returncode == 2 and "no configuration is called 'nothing'" in run.stderr
