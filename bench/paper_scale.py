"""RealEstate10K's true counts through the data path: seconds and memory of every step.

python bench/paper_scale.py FOLDER [--share 0.01] [--checkout FOLDER] [--steps download preprocess ...] [--note WORDS]
makes 4,866 training chunks of 66,033 scenes and 543 test chunks of 7,286, 170 frames a scene, in FOLDER (20 GB; kept
from call to call). Frames are real JPEGs of a few hundred bytes: what is measured is everything but their pixels.
A row a step: wall-clock seconds, the largest process and all processes together, as the kernel counts them (PSS)."""

import argparse
import io
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from common import append
from PIL import Image

# Chunks and scenes up to each published subset of the training split; then the test split (specs/re10k_format.md).
COUNTS = {"train": [(76, 1202), (304, 4121), (1216, 16449), (4866, 66033)], "test": [(543, 7286)]}
FRAMES, RANKS = 170, 8
STEPS = ["download", "preprocess", "training", "evaluation", "dry_run"]
TRAINING = """
import sys; from pathlib import Path
from novelview.config.compose import compose
from novelview.devices import Team
from novelview.training.loop import _loader
cfg = compose("train", ["scale=paper", "model=uplvsm", "phase=pretrain", "dataset=re10k"])
cfg.io["packed"], cfg.runtime.workers = sys.argv[1], 0
loader = _loader(cfg, Team(int(sys.argv[2]), int(sys.argv[3])))
print(next(iter(loader.batches(0, 1))).context.images.shape)
"""
EVALUATION = """
import json, sys; from pathlib import Path
from novelview.evaluation.protocol import Splits
from novelview.scenes.store import PackedStore
from novelview.stages.evaluate import _indices
store = PackedStore(Path(sys.argv[1]) / "test")
entries = _indices(Path(sys.argv[2]), ["planned"])
print(Splits.of(store, entries, {}).coverage())
"""


def frames_of(seed: int) -> list[bytes]:
    """Return JPEGs of 16x16 pixels; a scene takes them in turn."""
    found = []
    for number in range(16):
        buffer = io.BytesIO()
        pixels = np.random.default_rng(seed + number).integers(0, 255, (2, 2, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((16, 16)).save(buffer, "JPEG", quality=60)
        found.append(buffer.getvalue())
    return found


def make_chunk(job: tuple[Path, int, int]) -> tuple[str, list[str]]:
    """Write a chunk of `count` scenes from number `first` on, unless it is there; return its name and scenes."""
    from novelview.scenes.chunks import ChunkScene, write_chunk

    path, first, count = job
    keys = [f"{number:016x}" for number in range(first, first + count)]
    if not path.exists():
        torch.set_num_threads(1)
        jpegs = frames_of(0)
        rotation = torch.eye(3).repeat(FRAMES, 1, 1)
        shift = torch.stack([torch.linspace(0, 1, FRAMES), torch.zeros(FRAMES), torch.zeros(FRAMES)], 1)[..., None]
        head = torch.tensor([0.9, 0.9, 0.5, 0.5, 0.0, 0.0]).expand(FRAMES, 6)
        cameras = torch.cat([head, torch.cat([rotation, shift], 2).flatten(1)], 1)
        images = [jpegs[number % len(jpegs)] for number in range(FRAMES)]
        write_chunk(path, (ChunkScene(key, "", torch.arange(FRAMES) * 33333, cameras, images) for key in keys))
    return path.name, keys


def make(folder: Path, share: float) -> None:
    """Make the chunks of both splits and their index files."""
    first = 0
    for split, counts in COUNTS.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        jobs, before = [], (0, 0)
        for chunks, scenes in counts:
            rows, total = chunks - before[0], scenes - before[1]
            sizes = np.diff(np.linspace(0, total, rows + 1).round().astype(int))
            for size in sizes[: max(1, round(rows * share))]:
                jobs.append((folder / split / f"{len(jobs):06d}.torch", first, int(size)))
                first += int(size)
            before = chunks, scenes
        with multiprocessing.get_context("spawn").Pool(2) as pool:
            index = {key: name for name, keys in pool.imap(make_chunk, jobs) for key in keys}
        (folder / split / "index.json").write_text(json.dumps(index))
        print(f"{split}: {len(jobs)} chunks, {len(index)} scenes", flush=True)
    entry = {"context": [10, 150], "target": [40, 80, 120]}
    (folder / "indices").mkdir(exist_ok=True)
    (folder / "indices" / "planned.json").write_text(json.dumps(dict.fromkeys(index, entry)))


class Watched(threading.Thread):
    """Samples the memory of a process and its descendants, in MB: the largest one and the sum."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.largest, self.total, self.done = pid, 0.0, 0.0, False

    def run(self) -> None:
        while not self.done:
            sizes, waiting = [], [self.pid]
            while waiting:
                process = waiting.pop()
                with suppress(OSError, ValueError, StopIteration):
                    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
                    sizes.append(int(next(line for line in lines if line.startswith("Pss:")).split()[1]) / 1024)
                    for task in Path(f"/proc/{process}/task").iterdir():
                        waiting += [int(child) for child in (task / "children").read_text().split()]
            self.largest, self.total = max([self.largest, *sizes]), max(self.total, sum(sizes))
            time.sleep(0.2)


def watched(step: str, command: list[str], folder: Path, checkout: Path) -> dict[str, object]:
    """Run a command; return its row."""
    environment = {**os.environ, "PYTHONPATH": f"{checkout / 'src'}:{checkout / 'kernels'}", "OMP_NUM_THREADS": "1"}
    begin = time.perf_counter()
    with open(folder / f"{step}.log", "w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
        watch = Watched(process.pid)
        watch.start()
        status = process.wait()
    watch.done = True
    watch.join()
    row: dict[str, object] = {"step": step, "status": status, "wall_s": round(time.perf_counter() - begin, 1)}
    return row | {"largest_process_mb": round(watch.largest), "all_processes_mb": round(watch.total)}


def main() -> None:
    """Make what is missing, run the steps, append and print their rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--share", type=float, default=1.0, help="of the chunks, for a trial")
    parser.add_argument("--checkout", type=Path, default=Path(__file__).resolve().parents[1])
    parser.add_argument("--steps", nargs="*", default=STEPS, choices=STEPS)
    parser.add_argument("--note", default="")
    given = parser.parse_args()
    folder, checkout = given.folder.resolve(), given.checkout.resolve()
    make(folder / "re10k", given.share)
    raw, packed, python = folder / "data/re10k/raw", folder / "data/re10k/packed", sys.executable
    stage = [python, "-m"]
    names = ("small", "medium", "large", "extrapolation", "full")
    planned = [f"source.indices.{name}={folder / 're10k/indices/planned.json'}" for name in names]
    allow = [*planned, "source.allow_partial=true", "runtime.progress=false", "runtime.workers=2"]
    download = ["novelview.stages.download", "source=re10k", f"path={folder / 're10k'}", f"io.out={raw}", *allow]
    preprocess = ["novelview.stages.preprocess", f"io.raw={raw}", f"io.out={packed}", *allow[-2:]]
    snakemake = ["snakemake", "-s", str(checkout / "Snakefile"), "--directory", str(folder / "plan"), "-n"]
    (folder / "plan").mkdir(exist_ok=True)
    calls = {
        "download": [("download", [*stage, *download])],
        "preprocess": [("preprocess", [*stage, *preprocess])],
        "training": [
            (f"training rank {rank}", [python, "-c", TRAINING, str(packed), str(rank), str(RANKS)])
            for rank in range(RANKS)
        ],
        "evaluation": [("evaluation", [python, "-c", EVALUATION, str(packed), str(folder / "re10k/indices")])],
        "dry_run": [("dry run", [*stage, *snakemake, "--config", "scale=paper", f"path={folder / 're10k'}"])],
    }
    about = {"note": given.note, "share": given.share}
    for step in given.steps:
        rows = [about | watched(*call, folder, checkout) for call in calls[step]]
        append("paper_scale", rows)
        if any(row["status"] for row in rows):
            sys.exit(f"{step} failed; see {folder}/*.log")


if __name__ == "__main__":
    main()
