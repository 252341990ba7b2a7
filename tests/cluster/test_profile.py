"""The shipped SLURM profile on a real cluster of two nodes that are both this machine."""

import re
import shutil
import signal
import subprocess
import time

import pytest
from checkout import ALL, Checkout
from slurm import Cluster
from submitted import Submitted, jobs, wait_for

pytestmark = pytest.mark.slow


def asked(job: str) -> dict[str, str]:
    told = subprocess.run(["scontrol", "-o", "show", "job", job], capture_output=True, text=True, check=True).stdout
    return dict(word.split("=", 1) for word in told.split() if "=" in word)


def arrays(said: str) -> list[int]:
    """Return the tasks of every job array Snakemake says to have submitted."""
    return [len(ids.split(",")) for ids in re.findall(r"Submitted array job with Snakemake IDs ([\d,]+)", said)]


@pytest.fixture(scope="module")
def finished(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Submitted:
    """The whole tiny study, run through the cluster."""
    checkout = Submitted(tmp_path_factory.mktemp("finished"))
    checkout.finish(checkout.start())
    return checkout


def test_a_chain_runs_job_after_job(trained: Submitted) -> None:
    assert len(jobs((trained.folder / "said").read_text())) == 3 and len(trained.weights()) == 1


def test_the_whole_study_runs_on_the_cluster(finished: Submitted) -> None:
    said = (finished.folder / "said").read_text()
    assert (finished.folder / "results/demo/less3depend/report/index.html").is_file()
    rules = {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", said, re.MULTILINE)}
    assert set(rules) >= ALL and arrays(said)
    assert len(jobs(said)) + sum(arrays(said)) == rules["total"] - rules["all"]


def test_afterwards_nothing_is_to_be_done_without_the_cluster(finished: Submitted, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(finished, "how", Checkout.how)
    assert finished.run("-n") == set()
    assert finished.run("-n", "--set-resources", "pretrain_model:gpu=4", "pretrain_model:nodes=2") == set()
    assert finished.run("-n", more="train.lr=0.0011") > {"pretrain_model"}


def test_evaluations_that_are_ready_together_are_one_array(finished: Submitted) -> None:
    for folder in (finished.folder / "results/demo/models").glob("*/*/*/evaluation"):
        shutil.rmtree(folder)
    said = finished.finish(finished.start("evaluate"))
    assert arrays(said) == [4] and not jobs(said)


def test_weights_are_those_of_a_run_without_a_cluster(finished: Submitted, packed: Submitted, monkeypatch):
    monkeypatch.setattr(packed, "how", Checkout.how)
    assert packed.run("finetune") == {"pretrain_model", "finetune_model"}
    assert len(packed.weights()) == 4 and packed.weights() == finished.weights()


def test_account_partition_and_resources_reach_slurm(packed: Submitted) -> None:
    profile = packed.folder / "profiles/slurm/config.yaml"
    text = profile.read_text()
    for key, value in {"slurm_account": "our_lab", "slurm_partition": "debug"}.items():
        text, found = re.subn(rf"^  # {key}: .*$", f"  {key}: \"'{value}'\"", text, flags=re.MULTILINE)
        assert found == 1
    profile.write_text(text.replace("    runtime: 1440\n", "    runtime: 77\n    gpu: 1\n    mem_mb: 1500\n", 1))
    job = asked(jobs(packed.finish(packed.start(packed.PRETRAINED)))[0])
    assert (job["Account"], job["Partition"], job["TimeLimit"]) == ("our_lab", "debug", "01:17:00")
    assert job["MinMemoryNode"] == "1500M" and job["NumNodes"] == "1" and job["TresPerJob"].endswith("gpu:1")


def test_ctrl_c_takes_the_jobs_along(packed: Submitted) -> None:
    process = packed.start(packed.PRETRAINED, more="train.steps=100000")
    wait_for(packed.states, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=120) != 0
    end = time.monotonic() + 30
    while packed.training() and time.monotonic() < end:
        time.sleep(0.1)
    assert not packed.training() and packed.states()
    told = subprocess.run(["squeue", "-h", "-o", "%Z"], capture_output=True, text=True, check=True).stdout
    assert str(packed.folder) not in told.split()
