"""Snakemake on this project's Snakefile in a folder of a test's own."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]


def snakemake(folder: Path, *arguments: str) -> str:
    """Run Snakemake in `folder`; return all that it says."""
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--directory", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    return f"exit {done.returncode}\n{done.stdout}{done.stderr}"


def jobs(said: str) -> dict[str, int]:
    """Return how many jobs of each rule a dry run that succeeded plans."""
    assert said.startswith("exit 0"), said
    found = re.findall(r"^(\w+) +(\d+)$", said.partition("Job stats:")[2], re.MULTILINE)
    return {name: int(count) for name, count in found}


def configurations(said: str, folder: Path, stage: str) -> list[dict[str, Any]]:
    """Return the configuration of each job of a stage that a dry run in `folder` plans, as the job would read it."""
    names = re.findall(rf"novelview\.stages\.{stage} --config (\S+)", said)
    return [yaml.safe_load((folder / name).read_text())["config"] for name in names]
