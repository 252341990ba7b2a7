"""LaCT on views of one object: trained briefly, scored on views it never saw, rendered as a turntable.

python bench/object_views.py FOLDER [--work FOLDER] [--steps N]; FOLDER holds an opencv_cameras.json. Appends a row for
each number of context views to bench/results/object_views.csv; the clip and its pictures stay in the work folder."""

import argparse
import csv
import json
from pathlib import Path
from time import perf_counter

import numpy as np
from common import append

from novelview.scenes.views import EvalEntry, save_index
from novelview.stages.cli import run_stage
from novelview.stages.download import download
from novelview.stages.evaluate import evaluate
from novelview.stages.preprocess import preprocess
from novelview.stages.render import render
from novelview.stages.train import train

HELD_OUT = 12
COUNTS = (4, 8, 16)
SIDE = 64
MODEL = ["model=lact", "model.patch_size=8", "model.n_layer=4", "model.d=128", "model.d_head=32", "model.ttt.d_head=32"]
VIEWS = [
    *(f"views.image_size={SIDE}", "views.image_width=0", "views.pose_normalisation=none", "views.num_views=9"),
    *("views.num_context=6", "views.num_target=4", "views.augment.mirror=false", "views.augment.channels=false"),
]


def main() -> None:
    """Run every stage in the work folder and record the scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--work", type=Path, default=Path("object_views"))
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    work, threads = given.work.absolute(), f"runtime.threads={given.threads}"
    io = {name: f"io.{name}={work / name}" for name in ("raw", "packed")}
    step("download", download, "source=opencv_cameras", f"path={given.folder.absolute()}", "dataset=object",
         f"source.held_out={HELD_OUT}", f"io.out={work / 'raw'}")  # fmt: skip
    write_indices(work / "raw")
    step("preprocess", preprocess, io["raw"], f"io.out={work / 'packed'}")
    recipe = [f"train.steps={given.steps}", "train.warmup=60", "train.lr=1e-3", "train.batch_size=2"]
    files = [f"io.out={work / 'model.safetensors'}", f"io.log={work / 'train.csv'}", f"io.checkpoints={work / 'state'}"]
    seconds = step("train", train, *MODEL, *VIEWS, *recipe, "dataset=object", io["packed"], *files, threads)
    weights = f"io.weights={work / 'model.safetensors'}"
    splits = f"eval.splits=[{','.join(f'views{count}' for count in COUNTS)}]"
    few = ["eval.video_scenes=0", "eval.swap_poses=false", "dataset=object", threads]
    step("evaluate", evaluate, splits, *few, *io.values(), weights, f"io.out={work / 'evaluation'}")
    clip = ["path=turntable", "frames=60", "views=16", f"io.out={work / 'turntable.mp4'}"]
    step("render", render, *clip, io["packed"], weights, f"io.images={work / 'turntable'}", threads)
    append("object_views", rows(work, given.steps, seconds))


def step(name: str, body, *words: str) -> float:
    """Run a stage as its command line would; return its wall-clock seconds."""
    begin = perf_counter()
    if run_stage(name, body, [*words, "runtime.progress=false"]):
        raise SystemExit(f"stage {name} failed")
    return perf_counter() - begin


def write_indices(raw: Path) -> None:
    """Write an index for each number of context views, evenly spaced over the training views; targets are held out."""
    facts = json.loads((raw / "import.json").read_text())
    held_out = facts["held_out"]
    training = [frame for frame in range(len(facts["pictures"])) if frame not in held_out]
    for count in COUNTS:
        chosen = np.linspace(0, len(training) - 1, count).round().astype(int)
        context = tuple(training[place] for place in chosen)
        save_index(raw / f"indices/views{count}.json", [EvalEntry(facts["scene"], context, tuple(held_out))])


def rows(work: Path, steps: int, seconds: float) -> list[dict[str, object]]:
    """Return one row a number of context views: mean PSNR of the model and of the best baseline on held-out views."""
    with open(work / "evaluation/rows.csv", newline="") as stream:
        scores = list(csv.DictReader(stream))
    found: list[dict[str, object]] = []
    for count in COUNTS:
        own = [row for row in scores if row["split"] == f"views{count}"]
        means = {
            name: float(np.mean([float(row["psnr"]) for row in own if row["model"] == name]))
            for name in ("lact", "nearest_context", "mean_context", "mean_colour")
        }
        psnr = {f"psnr_{name}": round(value, 2) for name, value in means.items()}
        about = {"data": "one object", "side": SIDE, "steps": steps, "train_seconds": round(seconds, 1)}
        found.append({**about, "context_views": count, "targets": HELD_OUT, **psnr})
    return found


if __name__ == "__main__":
    main()
