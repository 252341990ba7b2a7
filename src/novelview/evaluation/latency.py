"""What reconstructing a scene and rendering a view of it cost, by number of context views and image size."""

import datetime
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch

from novelview.config.schema import ViewsConfig, sides
from novelview.config.stages import LatencyStage
from novelview.errors import DataError
from novelview.evaluation.encoded_scene import tensors_of
from novelview.evaluation.protocol import autocast, load_context
from novelview.evaluation.scores import write_table
from novelview.models.render import ViewModel
from novelview.scenes.batch import FrameCache
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


@torch.no_grad()
def costs(
    model: ViewModel, name: str, resolution: str, store: PackedStore, views: ViewsConfig, cfg: LatencyStage
) -> list[Cost]:
    """Measure `model` on the scene with the most frames for all `cfg.views`; raises DataError when it has too few."""
    scene = max(store.scenes, key=store.frames)
    pool = frame_pool(store, scene, 0)
    if (most := max(cfg.views)) > len(pool.order):
        raise DataError(f"views={most}: the longest scene, {scene}, has {len(pool.order)} frames; lower views")
    cache, device = FrameCache(store, views, 256), next(model.parameters()).device
    found = []
    for count in cfg.views:
        frames = sorted(choose_frames(pool, pool.order, "uniform", count))
        context = load_context(cache, scene, frames, 0, device).context
        places = [place % count for place in range(cfg.renders)]
        c2w, lenses = model.cameras(context, context.c2w[:, places]), context.intrinsics[:, places]
        with autocast(cfg.amp, device):
            state = model.encode(context)
            reconstruct = seconds(partial(model.encode, context), cfg.repeats, device)
            render = seconds(partial(model.decode, state, c2w, lenses, *sides(views)), cfg.repeats, device)
        size = sum(value.nbytes for value in tensors_of(state).values())
        found.append(Cost(name, resolution, count, reconstruct, render / cfg.renders, size))
    return found


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
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    where = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else next(names, platform.machine()),
        **{"cores": str(os.cpu_count()), "threads": str(torch.get_num_threads())},
        **{"python": platform.python_version(), "torch": str(torch.__version__)},
    }
    values = ([*astuple(row), *where.values()] for row in rows)
    write_table(path, [*(field.name for field in fields(Cost)), *where], values)
