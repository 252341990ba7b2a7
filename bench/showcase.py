"""What released checkpoints add to the demo: `python bench/showcase.py`, processor seconds of every job.

The models are those of study mini with untrained weights, which cost what trained ones do. Processor time of one
thread, because a busy machine stretches the wall clock; the demo runs two jobs at a time."""

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from common import append

from novelview.config.compose import compose
from novelview.config.digest import resolved
from novelview.models.exchange import compact
from novelview.models.registry import build, save_weights

MODELS = {"uplvsm": "uplvsm_mini", "ptlvsm": "ptlvsm_mini", "lvsm_decoder_only": "lvsm_mini", "lact": "lact_mini"}


def released(model: str, name: str, folder: Path) -> Path:
    """Write an untrained model of study mini as it would be released; return the file."""
    config = compose("train", [f"model={model}", "scale=mini", "phase=finetune", "dataset=rooms-mini"])
    torch.manual_seed(0)
    save_weights(folder / "weights.safetensors", build(config.model), resolved(config))
    compact(folder / "weights.safetensors", [], name, folder / f"{name}.safetensors")
    return folder / f"{name}.safetensors"


def measure(job: str, size: float, *words: str) -> dict[str, object]:
    """Run a stage of one thread; return its row: size of its weights [MB] and processor seconds, children counted."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", *words, "runtime.progress=false"]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"job": job, "weights_mb": round(size, 1), "cpu_s": round(spent, 1)}


def main() -> None:
    """Film and pack the showcase's rooms, evaluate each model on them; append and print the rows."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw, packed, data = folder / "raw", folder / "packed", "dataset=rooms-showcase"
        stages = "novelview.stages"
        rows = [
            measure("film", 0, f"{stages}.download", "source=rooms_showcase", data, f"io.out={raw}"),
            measure("pack", 0, f"{stages}.preprocess", data, f"io.raw={raw}", f"io.out={packed}"),
        ]
        for model, called in MODELS.items():
            weights = released(model, called, folder)
            io = [f"io.weights={weights}", f"io.raw={raw}", f"io.packed={packed}", f"io.out={folder / called}"]
            size = weights.stat().st_size / 1e6
            words = (f"{stages}.evaluate", data, "eval=showcase", "runtime.threads=1", "runtime.device=cpu", *io)
            rows.append(measure(f"evaluate {called}", size, *words))
    append("showcase", rows)


if __name__ == "__main__":
    main()
