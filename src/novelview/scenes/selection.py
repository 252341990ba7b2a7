"""Evaluation views chosen by a rule instead of an index: random, evenly spaced, or k-means of the camera centres.

specs/lact.md section 9: the release draws views at random, its paper takes those nearest to k-means centroids.
"""

import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from novelview.config.schema import EvalConfig
from novelview.errors import DataError
from novelview.scenes.frames import Store
from novelview.scenes.views import EvalEntry

ITERATIONS = 50


@dataclass(frozen=True)
class Pool:
    """The frames of a scene that may be chosen: numbers in random order, and each one's camera centre [x, y, z]."""

    scene: str
    order: list[int]
    centres: dict[int, Float[NDArray, " 3"]]


def selected_splits(store: Store, cfg: EvalConfig) -> dict[str, list[EvalEntry]]:
    """Return split name -> one entry a scene of `store`, for each number of context views: `uniform8`, `uniform16`.

    Which frames are targets depends on the seed and the scene alone where `num_target` is given, so numbers of
    context views, and ways to choose them, are compared on the same targets. Raises DataError, naming the scene, when
    it has fewer frames than are asked for.
    """
    counts = cfg.context_counts or [cfg.num_context]
    pools = [pool_of(store, scene, cfg.seed, cfg.num_views) for scene in store.scenes]
    return {
        f"{cfg.select}{count}": [entry(pool, cfg.select, count, cfg.num_target) for pool in pools] for count in counts
    }


def pool_of(store: Store, scene: str, seed: int, num_views: int = 0) -> Pool:
    """Shuffle the undamaged frames of `scene` by `seed` and keep `num_views` of them (0: all).

    Raises DataError when the scene has fewer.
    """
    bad = set(store.bad(scene))
    sound = [frame for frame in range(store.frames(scene)) if frame not in bad]
    if num_views > len(sound):
        raise DataError(f"scene {scene} has {len(sound)} usable frames, {num_views} are asked for; lower num_views")
    order = random.Random(f"{seed}/{scene}").sample(sound, num_views or len(sound))
    centres = store.c2w(scene)[:, :3, 3].double().numpy()
    return Pool(scene, order, {frame: centres[frame] for frame in order})


def entry(pool: Pool, select: str, contexts: int, targets: int) -> EvalEntry:
    """Choose `contexts` inputs and `targets` others (0: all the others) from a pool; both in frame order.

    Targets are the last of the shuffled pool. Raises DataError when the pool is too small.
    """
    asked = contexts + max(targets, 1)
    if asked > len(pool.order):
        raise DataError(
            f"scene {pool.scene} has {len(pool.order)} usable frames, {contexts} context and {max(targets, 1)} target "
            "views are asked for; lower their numbers"
        )
    kept = set(pool.order[len(pool.order) - targets :]) if targets else set()
    chosen = choose(pool, [frame for frame in pool.order if frame not in kept], select, contexts)
    target = kept or set(pool.order) - set(chosen)
    return EvalEntry(pool.scene, tuple(sorted(chosen)), tuple(sorted(target)))


def choose(pool: Pool, free: Sequence[int], select: str, count: int) -> list[int]:
    """Choose `count` of the frames `free`, which come in the pool's random order."""
    if select == "random":
        return list(free[:count])
    ordered = sorted(free)
    if select == "uniform":
        return [ordered[int(place)] for place in np.linspace(0, len(ordered) - 1, count).round()]
    centres = np.stack([pool.centres[frame] for frame in ordered])
    return [ordered[row] for row in nearest_to_means(centres, count)]


def nearest_to_means(points: Float[NDArray, "n 3"], count: int) -> list[int]:
    """Return the rows of `count` distinct points nearest to the k-means centroids of `points`.

    Deterministic: the means start at points each farthest from those before it, the first nearest to the middle.
    """
    from scipy.cluster.vq import kmeans2  # here: a bare machine (docs/mini.md) has no SciPy, and no k-means to do
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    start = points[farthest_points(points, count)]
    with warnings.catch_warnings():  # cameras that stand in one place leave clusters empty; their means stay put
        warnings.filterwarnings("ignore", message="One of the clusters is empty")
        means, _ = kmeans2(points, start, iter=ITERATIONS, minit="matrix")
    return sorted(int(row) for row in linear_sum_assignment(cdist(means, points))[1])


def farthest_points(points: Float[NDArray, "n 3"], count: int) -> list[int]:
    """Return rows of `count` points: the one nearest to the middle, then always the one farthest from those chosen."""
    rows = [int(np.linalg.norm(points - points.mean(axis=0), axis=1).argmin())]
    distance = np.full(len(points), np.inf)
    while len(rows) < count:
        distance = np.minimum(distance, np.linalg.norm(points - points[rows[-1]], axis=1))
        distance[rows] = -1
        rows.append(int(distance.argmax()))
    return rows
