"""What reconstructing a scene and rendering a view of it cost, by number of context views and image size."""

import csv
import datetime
import io
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from novelview.config.schema import ViewsConfig
from novelview.config.stages import LatencyStage
from novelview.errors import DataError
from novelview.evaluation.encoded_scene import tensors_of
from novelview.evaluation.protocol import autocast, load_context
from novelview.files import write_text
from novelview.models.render import ViewModel
from novelview.scenes.batch import FrameCache, Views
from novelview.scenes.samplers import choose_frames, frame_pool
from novelview.scenes.store import PackedStore


@dataclass(frozen=True)
class Cost:
    """One row: seconds to reconstruct from `views` context views and to render one view; bytes of the encoded scene."""

    model: str
    resolution: str
    views: int
    reconstruct_s: float
    render_s: float
    state_bytes: int


def costs(
    model: ViewModel, name: str, resolution: str, store: PackedStore, views: ViewsConfig, cfg: LatencyStage
) -> list[Cost]:
    """Measure `model` on the store's scene with the most frames, for every number of context views in `cfg.views`.

    Medians of `cfg.repeats` runs after one that is not counted. Raises DataError when no scene has enough frames.
    """
    scene = max(store.scenes, key=store.frames)
    pool = frame_pool(store, scene, 0)
    if max(cfg.views) > len(pool.order):
        raise DataError(
            f"views={max(cfg.views)}: the longest scene, {scene}, has {len(pool.order)} frames; lower views"
        )
    cache = FrameCache(store, views, 256)
    device = next(model.parameters()).device
    found = []
    for count in cfg.views:
        frames = sorted(choose_frames(pool, pool.order, "uniform", count))
        context = load_context(cache, scene, frames, 0, device).context
        found.append(Cost(name, resolution, count, *_measure(model, context, cfg)))
    return found


@torch.no_grad()
def _measure(model: ViewModel, context: Views, cfg: LatencyStage) -> tuple[float, float, int]:
    assert context.images is not None
    height, width = context.images.shape[-2:]
    places = [place % context.c2w.shape[1] for place in range(cfg.renders)]
    c2w, lenses = model.cameras(context, context.c2w[:, places]), context.intrinsics[:, places]
    device = context.c2w.device
    with autocast(cfg.amp, device):
        scene = model.encode(context)
        reconstruct = seconds(lambda: model.encode(context), cfg.repeats, device)
        render = seconds(lambda: model.decode(scene, c2w, lenses, height, width), cfg.repeats, device)
    return reconstruct, render / cfg.renders, sum(value.nbytes for value in tensors_of(scene).values())


def seconds(call: Callable[[], Any], repeats: int, device: torch.device) -> float:
    """Return the median wall-clock seconds of a call, one call before not counted; waits for a GPU to finish."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def write_costs(path: Path | str, rows: Sequence[Cost], device: torch.device) -> None:
    """Write rows as CSV, atomically, each with device, threads, versions and date."""
    where = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*(field.name for field in fields(Cost)), *where])
    for row in rows:
        values = [f"{value:.6f}" if isinstance(value, float) else value for value in astuple(row)]
        writer.writerow([*values, *where.values()])
    write_text(path, text.getvalue())


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
