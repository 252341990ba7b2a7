"""Frames a second of the rooms generator, JPEG encoding included: `python bench/rooms.py`.

One row per (device, workers, size, supersample); a worker is one process of one thread. Start-up of the workers is
counted, as a user meets it. Source of the settings: conf/source/rooms.yaml and rooms_mini.yaml."""

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path

import torch
from common import append

from novelview.config.compose import compose
from novelview.config.sources import RoomsSource
from novelview.scenes.procedural import generate

DEMO = RoomsSource(test_seen_scenes=0, test_new_scenes=0)
MINI: RoomsSource = dataclasses.replace(
    compose("download", ["source=rooms_mini"]).source, test_seen_scenes=0, test_new_scenes=0
)


def measure(source: RoomsSource, workers: int, device: str) -> dict[str, object]:
    """Generate the source's training rooms into a temporary folder; return a row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        generate(source, Path(folder), workers, progress=False, device=device)
        seconds = time.perf_counter() - begin
    frames = source.train_scenes * source.frames
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "workers": workers,
        "height": source.height,
        "width": source.width,
        "supersample": source.supersample,
        "frames": frames,
        "seconds": round(seconds, 2),
        "frames_per_second": round(frames / seconds, 1),
    }


def main() -> None:
    """Measure the demo's setting on the CPU, the mini scale's where there is a GPU; append and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rooms", type=int, default=32, help="rooms generated for each row")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    demo = dataclasses.replace(DEMO, train_scenes=given.rooms)
    rows = [measure(demo, workers, "cpu") for workers in given.workers]
    if torch.cuda.is_available():
        mini = dataclasses.replace(MINI, train_scenes=given.rooms)
        rows += [measure(mini, workers, "cuda") for workers in given.workers if workers]
    append("rooms", rows)


if __name__ == "__main__":
    main()
