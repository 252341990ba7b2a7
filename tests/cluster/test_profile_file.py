"""The SLURM profile as a file: what can be checked where there is no SLURM."""

import re
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
PROFILE = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text())


WORKFLOW = yaml.safe_load((ROOT / "conf/workflow.yaml").read_text())


def rules() -> dict[str, str]:
    """Return the text of every rule by name; one that uses another has that one's text before its own."""
    text = "\n".join(path.read_text() for path in sorted((ROOT / "workflow/rules").glob("*.smk")))
    found = dict(re.findall(r"^rule (\w+):\n((?:    .*\n|\n)+)", text, re.MULTILINE))
    for used, name, own in re.findall(r"^use rule (\w+) as (\w+) with:\n((?:    .*\n|\n)+)", text, re.MULTILINE):
        found[name] = found[used] + own
    return found


def test_the_profile_names_rules_that_exist() -> None:
    assert {*PROFILE["set-resources"], *PROFILE["slurm-array-jobs"].split(",")} <= set(rules())


def test_a_dry_run_accepts_the_profile(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--directory", str(tmp_path), "-n"]
    done = subprocess.run([*command, "--profile", str(ROOT / "profiles/slurm")], capture_output=True, text=True)
    assert done.returncode == 0 and "evaluate_model" in done.stdout + done.stderr, done.stderr[-2000:]


def test_every_job_saves_ahead_of_its_time_limit() -> None:
    assert re.search(r"--signal=USR1@\d+", PROFILE["default-resources"]["slurm_extra"])
    assert "--signal=B:" not in PROFILE["default-resources"]["slurm_extra"], "B: would reach the batch shell alone"


def test_training_and_evaluation_take_gpus_and_nodes_from_the_profile() -> None:
    gpus = {name for name, text in rules().items() if "novelview.stages.launch" in text}
    assert all("--gpus {resources.gpu}" in rules()[name] for name in gpus)
    launched = gpus - {"teach_pointmaps", "estimate_poses", "measure_latency"}  # of one GPU
    assert {"pretrain_model", "finetune_model", "evaluate_model"} <= launched
    for name in launched:
        text = rules()[name]
        assert "--gpus {resources.gpu} --nodes {resources.nodes}" in text and "nodes=1" in text, name
        (given,) = re.findall(r'\*\*\{.*RESOURCES\["(\w+)"\]\.items\(\)', text)
        assert all("gpu" in WORKFLOW["resources"][scale][given] for scale in ("demo", "mini", "paper")), name
        assert "launcher" not in text, f"{name}: params would make GPUs a reason to run again"
