"""Which frames make a sample: training samplers, and evaluation views chosen by a rule instead of an index.

`interval` is specs/uplvsm.md section 9, `random` specs/lact.md sections 7 and 8, `bounded` and `boundedv2` are
specs/depthsplat.md section 11 (Data), evaluation views specs/lact.md section 9."""

import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from novelview.config.schema import EvalConfig, ViewsConfig
from novelview.errors import ConfigError, DataError
from novelview.scenes.store import PackedStore, sound_frames
from novelview.scenes.views import EvalEntry

BOUNDED = ("bounded", "boundedv2")
ITERATIONS = 50  # of k-means


def long_enough(n_frames: int, damaged: int, cfg: ViewsConfig) -> bool:
    """Tell whether the training sampler accepts a scene of `n_frames` frames, of which some are damaged."""
    if cfg.sampler in BOUNDED:
        return n_frames >= fewest_frames(cfg)
    holds = cfg.sampler == "random" or min(n_frames - 1, cfg.max_frame_dist) > cfg.min_frame_dist
    return holds and n_frames - damaged >= cfg.num_views


def select_views(n_frames: int, rng: random.Random, cfg: ViewsConfig) -> list[int] | None:
    """Draw frame numbers, the ends of an interval first, as the reference does; None when the scene is too short."""
    inside = cfg.num_views - 2
    if cfg.min_frame_dist - 1 < inside:
        raise ConfigError(
            f"views.min_frame_dist={cfg.min_frame_dist}: an interval this short holds no {inside} views between "
            f"its ends; raise it to {inside + 1} or lower views.num_views"
        )
    if not long_enough(n_frames, 0, cfg):
        return None
    distance = rng.randint(cfg.min_frame_dist, min(n_frames - 1, cfg.max_frame_dist))
    start = rng.randint(0, n_frames - distance - 1)
    return [start, start + distance, *rng.sample(range(start + 1, start + distance), inside)]


def select_targets(rng: random.Random, cfg: ViewsConfig) -> list[int]:
    """Choose the targets of a training sample, as positions within its `cfg.num_views` loaded views."""
    if cfg.sampler == "random":  # the last, some of them contexts where views are few
        return list(range(cfg.num_views - cfg.num_target, cfg.num_views))
    if cfg.target_has_input:
        return rng.sample(range(cfg.num_views), cfg.num_target)
    return list(range(cfg.num_context, cfg.num_context + cfg.num_target))


def contexts_at(number: int, seed: int, cfg: ViewsConfig) -> int:
    """Return how many context views the samples of micro-batch `number` have, the same in all processes."""
    if cfg.sampler != "boundedv2" or not cfg.min_context:
        return cfg.num_context
    return random.Random(f"{seed}/contexts/{number}").randint(cfg.min_context, cfg.num_context)


def gap_range(cfg: ViewsConfig, step: int, contexts: int) -> tuple[int, int]:
    """Return the shortest and longest interval [frames] at a step (0-based), growing over `dist_steps` steps."""
    ends = (cfg.min_frame_dist, cfg.max_frame_dist)
    starts = (cfg.start_min_dist, cfg.start_max_dist) if cfg.dist_steps else ends
    share, scale = min(1.0, step / (cfg.dist_steps or 1)), cfg.num_context // contexts
    low, high = (start + int(share * (end - start)) for start, end in zip(starts, ends, strict=True))
    return max(1, low // scale), max(1, high // scale)


def fewest_frames(cfg: ViewsConfig) -> int:
    """Return how many frames a scene needs to be drawn from by a bounded sampler at any moment of the training."""
    longest = max(cfg.min_frame_dist, cfg.start_min_dist if cfg.dist_steps else 0)
    return max(longest + 1, cfg.num_context)


def bounded_views(
    c2w: Float[Tensor, "n 4 4"], rng: random.Random, cfg: ViewsConfig, step: int, contexts: int
) -> list[int] | None:
    """Draw `contexts` frame numbers, then those of the targets; None when the scene is too short at this step.

    bounded: contexts are the ends of the interval, targets uniform in it with replacement. boundedv2: more than two
    contexts are found by `farthest_points`, all but the first and last sorted; targets are distinct, perhaps fewer."""
    low, high = gap_range(cfg, step, contexts)
    high = min(high, len(c2w) - 1)
    if high < low or high + 1 < contexts:
        return None
    gap = rng.randint(max(low, contexts - 1), high)
    left = rng.randint(0, len(c2w) - 1 - gap)
    inside = range(left, left + gap + 1)
    if cfg.sampler == "bounded":
        return [left, left + gap, *rng.choices(inside, k=cfg.num_target)]
    targets = rng.sample(inside, min(cfg.num_target, len(inside)))
    if contexts == 2:
        return [left, left + gap, *targets]
    first, *others, last = (inside[at] for at in farthest_points(c2w[left : left + gap + 1, :3, 3], contexts))
    return [first, *sorted(others), last, *targets]


def farthest_points(centres: Float[Tensor, "n 3"], count: int) -> list[int]:
    """Choose `count` of n points: the farthest from their mean, then each time the farthest from all chosen."""
    centres = centres.double()
    away = (centres - centres.mean(dim=0)).norm(dim=1)
    chosen = [int(away.argmax())]
    apart = torch.full_like(away, torch.inf)
    while len(chosen) < count:
        apart = torch.minimum(apart, (centres - centres[chosen[-1]]).norm(dim=1))
        apart[chosen[-1]] = -1.0
        chosen.append(int(apart.argmax()))
    return chosen


@dataclass(frozen=True)
class FramePool:
    """The frames of a scene that may be chosen, in random order, and the camera centres of all its frames."""

    scene: str
    order: list[int]
    centres: Float[NDArray, "n 3"]


def selected_splits(store: PackedStore, cfg: EvalConfig) -> dict[str, list[EvalEntry]]:
    """Return `uniform8` -> an entry a scene, per number of contexts, on the same targets with `num_target`."""
    pools = [frame_pool(store, scene, cfg.seed, cfg.num_views) for scene in store.scenes]
    counts, few = cfg.context_counts or [cfg.num_context], cfg.num_target
    return {f"{cfg.select}{count}": [_entry(pool, cfg.select, count, few) for pool in pools] for count in counts}


def frame_pool(store: PackedStore, scene: str, seed: int, num_views: int = 0) -> FramePool:
    sound = sound_frames(store, scene)
    if num_views > len(sound):
        raise DataError(f"scene {scene} has {len(sound)} usable frames, {num_views} are asked for; lower num_views")
    order = random.Random(f"{seed}/{scene}").sample(sound, num_views or len(sound))
    return FramePool(scene, order, store.c2w(scene)[:, :3, 3].double().numpy())


def _entry(pool: FramePool, select: str, contexts: int, targets: int) -> EvalEntry:
    """Choose `contexts` inputs and `targets` others (0: all the others), the pool's last; both in frame order."""
    asked = contexts + max(targets, 1)
    if asked > len(pool.order):
        raise DataError(
            f"scene {pool.scene} has {len(pool.order)} usable frames, {contexts} context and {max(targets, 1)} target "
            "views are asked for; lower their numbers"
        )
    held_out = set(pool.order[len(pool.order) - targets :]) if targets else set()
    chosen = choose_frames(pool, [frame for frame in pool.order if frame not in held_out], select, contexts)
    return EvalEntry(pool.scene, tuple(sorted(chosen)), tuple(sorted(held_out or set(pool.order) - set(chosen))))


def choose_frames(pool: FramePool, free: Sequence[int], select: str, count: int) -> list[int]:
    """Choose `count` of the frames `free`, which come in the pool's random order."""
    if select == "random":
        return list(free[:count])
    ordered = sorted(free)
    if select == "uniform":
        return [ordered[int(place)] for place in np.linspace(0, len(ordered) - 1, count).round()]
    return [ordered[row] for row in nearest_to_means(pool.centres[ordered], count)]


def nearest_to_means(points: Float[NDArray, "n 3"], count: int) -> list[int]:
    """Return the rows of `count` distinct points nearest to the k-means centroids, the same in every call."""
    from scipy.cluster.vq import kmeans2  # here: a bare machine (docs/mini.md) has no SciPy, and no k-means to do
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    rows = [int(np.linalg.norm(points - points.mean(axis=0), axis=1).argmin())]
    distance = np.full(len(points), np.inf)
    while len(rows) < count:
        distance = np.minimum(distance, np.linalg.norm(points - points[rows[-1]], axis=1))
        distance[rows] = -1
        rows.append(int(distance.argmax()))
    with warnings.catch_warnings():  # cameras that stand in one place leave clusters empty; their means stay put
        warnings.filterwarnings("ignore", message="One of the clusters is empty")
        means, _ = kmeans2(points, points[rows], iter=ITERATIONS, minit="matrix")
    return sorted(int(row) for row in linear_sum_assignment(cdist(means, points))[1])
