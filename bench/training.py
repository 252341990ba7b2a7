"""Milliseconds of a training step, split by part: `python bench/training.py [overrides]`.

One row per (run, phase) of a scale: loading a batch, forward pass with loss, backward pass, update; GPU work is waited
for after every part. Beside it the operations of a step, their rate, and the rate of matrix products alone in the same
process. Overrides are those of the train stage, e.g. `train.amp=bf16 train.compile=true`. `--before FOLDER` measures
another checkout's code and recipes first, in a process of its own."""

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from common import append

from novelview.config.compose import compose
from novelview.config.schema import PackConfig
from novelview.config.sources import RoomsSource
from novelview.config.stages import TrainStage
from novelview.devices import Team, team
from novelview.losses.photometric import TrainingLoss
from novelview.planning.hours import training_step
from novelview.scenes.batch import Batch
from novelview.scenes.chunks import chunk_files
from novelview.scenes.dataset import TrainLoader, TrainSet
from novelview.scenes.pack import pack_chunks
from novelview.scenes.procedural.generate import generate
from novelview.scenes.store import PackedStore
from novelview.training.checkpoint import build_model
from novelview.training.loop import Stepper

PARTS: tuple[str, ...] = ("load", "forward", "backward", "update")
WARM_UP = 3  # steps before the clock starts
FILL = 64  # batches loaded beforehand, so that `load` is what a run sees once its cache is full


def make_store(folder: Path, settings: list[TrainStage], scenes: int) -> PackedStore:
    """Generate and pack rooms long enough for the views of all settings."""
    frames = max(cfg.views.max_frame_dist + 1 for cfg in settings)
    source = RoomsSource(train_scenes=scenes, test_seen_scenes=0, test_new_scenes=0, frames=frames)
    generate(source, folder / "raw", 0, progress=False, device="cpu")
    files = {"train": chunk_files(folder / "raw" / "train")}
    pack_chunks(files, folder / "packed", PackConfig(), progress=False)
    return PackedStore(folder / "packed" / "train")


@contextmanager
def timed(seconds: dict[str, float], part: str, device: torch.device) -> Iterator[None]:
    """Add the time of the block, GPU work included, to `seconds[part]`."""
    begin = time.perf_counter()
    yield
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds[part] += time.perf_counter() - begin


def one_step(stepper: Stepper, batches: Iterator[Batch], seconds: dict[str, float]) -> None:
    """Take one training step of one micro-batch, timing its parts."""
    device = stepper.team.device
    with timed(seconds, "load", device):
        batch = next(batches)
    with timed(seconds, "forward", device), stepper.autocast():
        losses = stepper.loss(stepper.wrapped(batch.context, batch.target), batch)
    with timed(seconds, "backward", device):
        stepper.updater.backward(losses["loss"])
    with timed(seconds, "update", device):
        stepper.updater.update([losses["loss"].detach()])


def product_rate(dtype: torch.dtype, device: torch.device, turns: int = 20) -> float:
    """Return the operations a second of products of two matrices of 1024 x 1024, the median of `turns`."""
    a, b = (torch.randn(1024, 1024, device=device).to(dtype) for _ in range(2))
    rates = []
    for _ in range(turns):
        seconds = {"product": 0.0}
        with timed(seconds, "product", device):
            torch.mm(a, b)
        rates.append(2 * 1024**3 / seconds["product"])
    return sorted(rates)[turns // 2]


def measure(cfg: TrainStage, store: PackedStore, members: Team, steps: int) -> dict[str, object]:
    """Train `steps` steps of one configuration; return a row of the table."""
    data = TrainSet(store, cfg.views, cfg.train.seed, cfg.runtime.cache_mb)
    loader = TrainLoader(data, cfg.train.batch_size, device=members.device, workers=cfg.runtime.workers)
    loss = TrainingLoss(cfg.train.losses).to(members.device)
    stepper = Stepper(build_model(cfg, members), loss, cfg.train, members)
    for number in range(FILL):
        data.batch(number, cfg.train.batch_size)
    batches = loader.batches(0, WARM_UP + steps)
    seconds = dict.fromkeys(PARTS, 0.0)
    for step in range(WARM_UP + steps):
        seconds = dict.fromkeys(PARTS, 0.0) if step == WARM_UP else seconds
        one_step(stepper, batches, seconds)
    return row(cfg, members, stepper, {part: value / steps for part, value in seconds.items()})


def row(cfg: TrainStage, members: Team, stepper: Stepper, seconds: dict[str, float]) -> dict[str, object]:
    """Return a row: the setting, milliseconds of each part, steps and images a second."""
    total = sum(seconds.values())
    views = cfg.train.batch_size * (cfg.views.num_context + cfg.views.num_target)
    cuda = members.device.type == "cuda"
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(cfg.train.amp, torch.float32)
    gflop, products = training_step(cfg) / 1e9, product_rate(dtype, members.device) / 1e9
    return {
        "model": cfg.variant or cfg.model.name,
        "phase": cfg.phase,
        "size": cfg.views.image_size,
        "batch": cfg.train.batch_size,
        "device": torch.cuda.get_device_name() if cuda else f"cpu x{torch.get_num_threads()}",
        "parameters": sum(parameter.numel() for parameter in stepper.model.parameters()),
        **{f"{part}_ms": round(1000 * seconds[part], 2) for part in PARTS},
        "steps_per_second": round(1 / total, 2),
        "images_per_second": round(views / total, 1),
        "amp": cfg.train.amp,
        "gflop": round(gflop, 1),
        "gflops": round(gflop / total, 1),
        "product_gflops": round(products, 1),
        "share": round(gflop / total / products, 3),
    }


def main() -> None:
    """Measure the runs and phases of a scale; append and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="demo")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--scenes", type=int, default=16)
    parser.add_argument("--runs", default="uplvsm,ptlvsm", help="MODEL or MODEL:VARIANT of conf/models, commas between")
    parser.add_argument("--threads", type=int, default=0, help="0: torch's choice")
    parser.add_argument("--label", default="", help="whose code it is, in the rows")
    parser.add_argument("--before", help="another checkout, measured first")
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    if given.before:
        own = [word for word in sys.argv[1:] if word not in ("--before", given.before)]
        paths = {"PYTHONPATH": f"{given.before}/src:{given.before}/kernels", "NOVELVIEW_CONF": f"{given.before}/conf"}
        subprocess.run([sys.executable, __file__, *own, "--label=before"], env=os.environ | paths, check=True)
    if given.threads:
        torch.set_num_threads(given.threads)
    words = [
        [f"model={model}", f"scale={given.scale}", f"phase={phase}", *named(given.scale, name, phase), *given.overrides]
        for model, _, name in (run.partition(":") for run in given.runs.split(","))
        for phase in ("pretrain", "finetune")
    ]
    settings = [dataclasses.replace(compose("train", chosen), io={}) for chosen in words]
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder), settings, given.scenes)
        with team(settings[0].runtime) as members:
            rows = [measure(cfg, store, members, given.steps) for cfg in settings]
    append("training", [{**row, "code": given.label or "this"} for row in rows])


def named(scale: str, name: str, phase: str) -> list[str]:
    """Return the overrides of a variant of a model."""
    return [f"size={scale}/{name}", f"recipe={scale}/{name}/{phase}", f"variant={name}"] if name else []


if __name__ == "__main__":
    main()
