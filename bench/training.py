"""Milliseconds of a training step, split by part: `python bench/training.py [overrides]`.

One row per (model, phase) of a scale: loading a batch, forward pass with loss, backward pass, update; GPU work is
waited for after every part. Overrides are those of the train stage, e.g. `train.amp=bf16 train.compile=true`."""

import argparse
import dataclasses
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
from novelview.scenes.batch import Batch
from novelview.scenes.chunks import chunk_files
from novelview.scenes.dataset import TrainLoader, TrainSet
from novelview.scenes.pack import pack_chunks
from novelview.scenes.procedural import generate
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
    return {
        "model": cfg.model.name,
        "phase": cfg.phase,
        "size": cfg.views.image_size,
        "batch": cfg.train.batch_size,
        "device": torch.cuda.get_device_name() if cuda else f"cpu x{torch.get_num_threads()}",
        "parameters": sum(parameter.numel() for parameter in stepper.model.parameters()),
        **{f"{part}_ms": round(1000 * seconds[part], 2) for part in PARTS},
        "steps_per_second": round(1 / total, 2),
        "images_per_second": round(views / total, 1),
    }


def main() -> None:
    """Measure both models and phases of a scale; append and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="demo")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--scenes", type=int, default=16)
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    words = [
        [f"model={model}", f"scale={given.scale}", f"phase={phase}", "model.dino.weights=null", *given.overrides]
        for model in ("uplvsm", "ptlvsm")
        for phase in ("pretrain", "finetune")
    ]
    settings = [dataclasses.replace(compose("train", chosen), io={}) for chosen in words]
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder), settings, given.scenes)
        with team(settings[0].runtime) as members:
            rows = [measure(cfg, store, members, given.steps) for cfg in settings]
    append("training", rows)


if __name__ == "__main__":
    main()
