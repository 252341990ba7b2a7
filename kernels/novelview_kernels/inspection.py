"""Compile a recorded launch to a cubin without a GPU and read what ptxas made of it.

Method and limits: specs/kernels_feasibility.md section 2."""

import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from novelview_kernels.launch import Specimen

BIN = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
SHARED_LIMIT = {80: 166_912, 90: 232_448}  # bytes one block may use
STACK_LIMIT = 8  # an 8-byte scalar spill of sm_80 address arithmetic is harmless


class Report(NamedTuple):
    """What one compiled kernel uses, and what is wrong with it."""

    registers: int
    stack: int
    spilled: int
    shared: int
    hgmma: int
    hmma: int
    warnings: tuple[str, ...]
    problems: tuple[str, ...]


def compile_specimen(specimen: Specimen, cc: int) -> Any:
    """Compile a recorded launch for compute capability `cc` (80, 90)."""
    names = specimen.kernel.arg_names
    signature = {name: "constexpr" if name in specimen.constants else specimen.types[name] for name in names}
    constants = {(names.index(name),): value for name, value in specimen.constants.items()}
    attributes: dict[Any, Any] = {(names.index(name),): [["tt.divisibility", 16]] for name in specimen.aligned}
    source = ASTSource(fn=specimen.kernel, signature=signature, constexprs=constants, attrs=attributes)
    options = {"num_warps": specimen.warps, "num_stages": specimen.stages}
    return triton.compile(source, target=GPUTarget("cuda", cc, 32), options=options)


def _run(*command: object) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ, PATH=f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}")
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment)


def _assemble(ptx: Path, cc: int) -> str:
    arch = "sm_90a" if cc == 90 else f"sm_{cc}"
    for name in ("ptxas", "ptxas-blackwell"):
        log = _run(BIN / name, "-v", f"--gpu-name={arch}", ptx, "-o", ptx.with_suffix(".o"))
        if log.returncode == 0:
            return log.stderr
    raise RuntimeError(f"ptxas rejects the kernel for {arch}: {log.stderr.strip()}")


def inspect(compiled: Any, cc: int) -> Report:
    """Disassemble a compiled kernel and judge it: spills, shared memory, tensor-core instructions, serialised wgmma."""
    with tempfile.TemporaryDirectory() as folder:
        cubin, ptx = Path(folder) / "k.cubin", Path(folder) / "k.ptx"
        cubin.write_bytes(compiled.asm["cubin"])
        ptx.write_text(compiled.asm["ptx"])
        usage = _run(BIN / "cuobjdump", "--dump-resource-usage", cubin).stdout
        sass = _run(BIN / "cuobjdump", "--dump-sass", cubin).stdout
        log = _assemble(ptx, cc)
    numbers = {name: int(value) for name, value in re.findall(r"\b(REG|STACK):(\d+)", usage)}
    ops = re.findall(r"^\s+/\*[0-9a-f]{4,5}\*/\s+(?:@!?U?P\d+ )?([A-Z]\w*)", sass, re.M)
    spilled = sum(int(count) for count in re.findall(r"(\d+) bytes spill", log))
    warnings = tuple(re.findall(r"\((C75\d\d)\)", log))
    shared, dots = compiled.metadata.shared, "tt.dot" in compiled.asm["ttir"]
    report = Report(
        numbers["REG"], numbers["STACK"], spilled, shared, ops.count("HGMMA"), ops.count("HMMA"), warnings, ()
    )
    return report._replace(problems=tuple(problems(report, cc, dots, compiled.asm["ptx"])))


def problems(report: Report, cc: int, dots: bool, ptx: str) -> list[str]:
    """Return what the gate holds against a kernel; `dots`: it multiplies matrices, so must use the tensor cores."""
    found = [f"wgmma serialised ({code})" for code in report.warnings if "C7510" <= code <= "C7515"]
    if report.spilled or report.stack > STACK_LIMIT:
        found.append(f"spills {report.spilled} bytes, stack {report.stack}")
    if report.shared > SHARED_LIMIT[cc]:
        found.append(f"{report.shared} bytes of shared memory exceed {SHARED_LIMIT[cc]}")
    if dots and cc == 90 and not report.hgmma:
        found.append("no HGMMA")
    if dots and cc == 80 and not report.hmma:
        found.append("no HMMA")
    if _register_hazard(ptx):
        found.append("wgmma with a register operand is left in flight")
    return found


def _register_hazard(ptx: str) -> bool:
    """Whether a wgmma with A in registers meets a wait that leaves groups in flight (triton issue 9433)."""
    waits = any(int(count) for count in re.findall(r"wgmma\.wait_group\.sync\.aligned (\d+)", ptx))
    groups = re.findall(r"wgmma\.mma_async\.sync\S+\s*\{[^}]*\},\s*(\S)", ptx)
    return waits and "{" in groups
