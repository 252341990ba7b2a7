"""What reconstructing a scene and rendering a view of it cost, by number of context views and image size."""

import csv
import datetime
import io
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from novelview.config.schema import ViewsConfig
from novelview.config.stages import LatencyStage
from novelview.errors import DataError
from novelview.evaluation.protocol import autocast
from novelview.evaluation.scene_file import tensors_of
from novelview.files import write_text
from novelview.models.render import ViewModel
from novelview.scenes.batch import FrameCache, Views, collate
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
        context = collate([cache.sample(scene, frames, 0)], count).to_batch(device).context
        found.append(Cost(name, resolution, count, *_measure(model, context, cfg)))
    return found


@torch.no_grad()
def _measure(model: ViewModel, context: Views, cfg: LatencyStage) -> tuple[float, float, int]:
    assert context.images is not None
    height, width = context.images.shape[-2:]
    places = [place % context.c2w.shape[1] for place in range(cfg.renders)]
    c2w, lenses = model.cameras(context, context.c2w[:, places]), context.intrinsics[:, places]
    with autocast(cfg.amp, context.c2w.device):
        scene = model.encode(context)
        reconstruct = seconds(lambda: model.encode(context), cfg.repeats, context.c2w.device)
        render = seconds(lambda: model.decode(scene, c2w, lenses, height, width), cfg.repeats, context.c2w.device)
    size = sum(value.nbytes for value in tensors_of(scene).values())
    return reconstruct, render / cfg.renders, size


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
    text = io.StringIO()
    where = machine(device)
    names = [field.name for field in fields(Cost)]
    writer = csv.DictWriter(text, [*names, *where], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        values = {name: getattr(row, name) for name in names}
        writer.writerow(
            {key: f"{value:.6f}" if isinstance(value, float) else value for key, value in values.items()} | where
        )
    write_text(path, text.getvalue())


def machine(device: torch.device) -> dict[str, str]:
    """Return what a measured number depends on: date, device, threads and versions."""
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
