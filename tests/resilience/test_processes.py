"""Several processes stay one model, whatever happens on one of them."""

import math
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.multiprocessing as multiprocessing
from torch import nn

from novelview.config.schema import RuntimeConfig, TrainConfig
from novelview.devices import team
from novelview.models.render import Render
from novelview.scenes.batch import Batch, Views
from novelview.training.loop import Stepper

CFG = TrainConfig(lr=0.05, warmup=0, steps=10, schedule="constant", amp="none", grad_accum=2)
BAD_STEP = 1


class Painter(nn.Module):
    """The least model: a colour transform of the mean context."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mix = nn.Conv2d(3, 3, 1)

    def forward(self, context: Views, target: Views) -> SimpleNamespace:
        assert context.images is not None
        return SimpleNamespace(images=self.mix(context.images.mean(1)).sigmoid()[:, None])


def squared(render: Render, batch: Batch) -> dict[str, torch.Tensor]:
    assert batch.target.images is not None
    mse = (render.images - batch.target.images).square().mean()
    return {"loss": mse, "mse": mse, "psnr": -10 * mse.log10()}


def batch(seed: int, bad: bool) -> Batch:
    images = torch.rand(2, 3, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    views = Views(images, torch.eye(4).expand(2, 3, 4, 4), torch.ones(2, 3, 4))
    if bad:
        images[:, 2] = math.nan
    return Batch(["a", "b"], views.span(0, 2), views.span(2, 3))


def work(rank: int, folder: str) -> None:
    """Train four steps as one of two processes; the loss of process 1 is NaN in one micro-batch."""
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1")
    os.environ["MASTER_PORT"] = Path(folder, "port").read_text()
    with team(RuntimeConfig(device="cpu", threads=1)) as members:
        stepper = Stepper(Painter(), squared, CFG, members)
        before, skipped = [], []
        for step in range(4):
            before.append(stepper.model.state_dict()["mix.weight"].clone())
            bad = rank == 1 and step == BAD_STEP
            parts = [batch(10 * step + 2 * rank + part, bad and part == 0) for part in range(2)]
            skipped.append(stepper.step(parts)[1].skipped)
        flags = members.any([rank == 0, False, rank == 1])
        state = {"before": torch.stack(before), "after": stepper.model.state_dict()["mix.weight"]}
        torch.save(
            {**state, "skipped": skipped, "flags": flags, "gathered": members.gather(rank)}, f"{folder}/{rank}.pt"
        )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("processes")
    (folder / "port").write_text(str(free_port()))
    multiprocessing.spawn(work, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_one_bad_loss_skips_the_update_everywhere(outcome) -> None:
    for rank in outcome:
        assert rank["skipped"] == [None, "nonfinite", None, None]
        assert torch.equal(rank["before"][BAD_STEP], rank["before"][BAD_STEP + 1])
        assert not torch.equal(rank["before"][0], rank["before"][1])


def test_replicas_never_part(outcome) -> None:
    assert torch.equal(outcome[0]["after"], outcome[1]["after"])
    assert torch.equal(outcome[0]["before"], outcome[1]["before"])
    assert torch.isfinite(outcome[0]["after"]).all()


def test_flags_and_values_are_shared(outcome) -> None:
    assert all(rank["flags"] == [True, False, True] and rank["gathered"] == [0, 1] for rank in outcome)


def test_stages_work_for_a_user_without_home_and_entry(tmp_path: Path) -> None:
    """A container often runs as a number that the password file does not know."""
    environment = {key: value for key, value in os.environ.items() if key not in ("HOME", "USER", "LOGNAME")}
    inside = ["unshare", "--user", "--map-user=54321", "--map-group=54321"]
    if not shutil.which("unshare") or subprocess.run([*inside, "true"], capture_output=True).returncode:
        inside = []  # no user namespaces here: HOME alone is missing then
    rooms = ["source=rooms", "source.train_scenes=1", "source.test_seen_scenes=1", "source.test_new_scenes=0"]
    rooms += ["source.frames=12", "source.gaps=[6]", "source.height=36", "source.width=64"]
    calls = {
        "download": [*rooms, "io.out=raw"],
        "preprocess": ["io.raw=raw", "io.out=packed"],
        "train": ["io.packed=~/packed", "io.out=m.safetensors", "io.log=t.csv", "io.checkpoints=c", "model=ptlvsm"],
    }
    for stage, words in calls.items():
        command = [*inside, sys.executable, "-m", f"novelview.stages.{stage}", *words, "runtime.progress=false"]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert "Traceback" not in done.stderr and done.returncode == (2 if stage == "train" else 0), done.stderr
    assert "error: ~/packed/manifest.json: no such file" in done.stderr or not inside
