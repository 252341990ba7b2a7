"""The whole demo study through a real SLURM on this machine, once into its time limit, against an ordinary run.

`python bench/cluster.py FOLDER [key=value ...]` clones the project twice into FOLDER, brings up the cluster of
tests/cluster/slurm.py (root, Debian packages slurm-wlm and munge), submits the study through profiles/slurm, lets the
time limit of the first pretraining strike, trains the same models without a cluster, and compares the weights. The
settings, such as train.steps=50, go to both. Writes bench/results/cluster.csv."""

import re
import subprocess
import sys
import threading
import time
from pathlib import Path

from common import append

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests/cluster"))

from slurm import Cluster, running  # noqa: E402 - the tests' own, found through the line above

PROFILE = ("--profile", "profiles/slurm", "--slurm-status-command", "squeue")
OFTEN = ("--slurm-init-seconds-before-status-checks", "1", "--latency-wait", "10")


def main(folder: Path, settings: list[str]) -> None:
    """Run both; exit with an error when a weight file differs or no job ran into its limit."""
    study = ["--config", "study=less3depend", "scale=demo", *([f"set={' '.join(settings)}"] if settings else [])]
    cluster = running() or Cluster(folder / "slurm")
    if not cluster.pids.exists():
        cluster.start()
        print(f"the cluster stays up: python tests/cluster/slurm.py down {cluster.folder}")
    submitted, plain = clone(folder / "submitted"), clone(folder / "plain")
    threading.Thread(target=shorten, args=(submitted,), daemon=True).start()
    through = run(submitted, [*PROFILE, *OFTEN, *study])
    alone = run(plain, ["finetune", "--cores", "2", *study])
    said = (submitted / "said").read_text()
    resumed = [path.name for path in (submitted / "logs").rglob("*.log") if "resuming from" in path.read_text()]
    same = weights(submitted) == weights(plain)
    steps = " ".join(settings) or "as configured"
    row = {"study": "less3depend", "scale": "demo", "settings": steps, "seconds": through, "jobs": submissions(said)}
    row |= {"restarts": said.count("Trying to restart"), "resumed": " ".join(sorted(set(resumed)))}
    append("cluster", [row | {"alone_seconds": alone, "weights": len(weights(plain)), "identical": same}])
    for name, digest in weights(submitted).items():
        print(digest, name)
    if not same or not resumed:
        sys.exit("error: the weights differ, or no job was resumed")


def clone(folder: Path) -> Path:
    """Clone the project's last commit."""
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    return folder


def run(folder: Path, arguments: list[str]) -> float:
    """Run Snakemake in a clone; return its seconds. What it says goes to the file `said`."""
    begin = time.monotonic()
    with open(folder / "said", "w") as stream:
        command = [sys.executable, "-m", "snakemake", *arguments]
        subprocess.run(command, cwd=folder, stdout=stream, stderr=stream, check=True)
    return round(time.monotonic() - begin, 1)


def shorten(folder: Path) -> None:
    """Bring near the limit of the first pretraining job that has saved a state."""
    while not list((folder / "checkpoints/pretrain").glob("*/[!.]*.pt")):
        time.sleep(0.5)
    told = subprocess.run(["squeue", "-h", "-t", "R", "-O", "JobID,TimeUsed"], capture_output=True, text=True).stdout
    job, used = told.splitlines()[0].split()
    minutes = int(used.split(":")[-2]) + 2
    subprocess.run(["scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}"], check=True)


def submissions(said: str) -> int:
    """Count the SLURM jobs, tasks of arrays one by one."""
    arrays = re.findall(r"Submitted array job with Snakemake IDs ([\d,]+)", said)
    return len(re.findall(r"submitted with SLURM jobid", said)) + sum(ids.count(",") + 1 for ids in arrays)


def weights(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of all final weights by path."""
    paths = sorted((folder / "results").rglob("model.safetensors"))
    told = subprocess.run(["sha256sum", *paths], capture_output=True, text=True, check=True).stdout
    digests = [line.split()[0] for line in told.splitlines()]
    return {str(path.relative_to(folder)): digest for path, digest in zip(paths, digests, strict=True)}


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute(), sys.argv[2:])
