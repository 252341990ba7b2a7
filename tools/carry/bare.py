"""A bare machine: python -m carry.bare BUNDLE SIDE -- ARGUMENTS of `python -m carry`.

Installs the wheels of the bundle into the folder SIDE, without an index, once, and then becomes the driver. Runs on a
Python that has nothing but torch, triton and numpy: this file imports the standard library alone."""

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from carry.bundle import digest_of

NEEDED = ("torch", "numpy")
DONE = ".installed"


def main(argv: Sequence[str] | None = None) -> int:
    """Install and go on as the driver; returns 2 with one line where something is missing."""
    words = list(sys.argv[1:] if argv is None else argv)
    if len(words) < 2:
        print(__doc__)
        return 2
    bundle, side, *rest = words
    try:
        install(Path(bundle), Path(side))
    except LookupError as error:
        print(f"error: {error.args[0]}", file=sys.stderr)
        return 2
    _prepare_environment(Path(side).absolute())
    words = rest[1:] if rest[:1] == ["--"] else rest
    os.execv(sys.executable, [sys.executable, "-m", "carry", *words])


def _prepare_environment(side: Path) -> None:
    """Make the wheels importable, and `python`, which the rules call, this Python also where it has another name."""
    inherited = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    os.environ["PYTHONPATH"] = os.pathsep.join([*(str(Path(path).absolute()) for path in inherited), str(side)])
    if not shutil.which("python", path=str(Path(sys.executable).parent)):
        script = side / "bin" / "python"
        script.parent.mkdir(exist_ok=True)
        script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
        script.chmod(0o755)
        os.environ["PATH"] = f"{script.parent}{os.pathsep}{os.environ['PATH']}"


def install(bundle: Path, side: Path) -> None:
    """Install the wheels of `bundle` into `side` unless that is done; raises LookupError, one line."""
    wheels = sorted(bundle.glob("*.whl"))
    if not wheels:
        raise LookupError(f"{bundle}: no wheels here; make them with `make mini-bundle` where there is a network")
    held = {path.name.partition("-")[0] for path in wheels}
    missing = [name for name in NEEDED if not (importlib.util.find_spec(name) or name in held)]
    if missing:
        raise LookupError(f"this Python lacks {missing[0]}; choose one that has it as GPU_PYTHON=...")
    mark = side / DONE
    if mark.is_file() and mark.read_text() == digest_of(bundle):
        return
    tool = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    how = ["--no-index", "--no-deps", "--no-compile", "--no-cache-dir", "--upgrade", "--target", str(side)]
    done = subprocess.run([*tool, *how, *map(str, wheels)], capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise LookupError(f"{bundle}: its wheels do not go into this Python ({said}); make them for its version")
    mark.write_text(digest_of(bundle))


if __name__ == "__main__":
    sys.exit(main())
