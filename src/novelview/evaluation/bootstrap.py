"""The bootstrap over scenes that all intervals share: how often each scene is drawn, and the percentiles kept."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

LEVEL = 95.0


def clusters(scenes: Sequence[str]) -> Int[np.ndarray, " n"]:
    """Return a number for each image that those drawn together share: its scene, or itself where all are of one."""
    labels = np.unique(scenes, return_inverse=True)[1]
    return labels if labels.max() else np.arange(len(scenes))


def draws(clusters: int, resamples: int, seed: int) -> Int[np.ndarray, "resamples clusters"]:
    """Return how often each of `clusters` scenes is drawn in each resample; `clusters` draws with replacement."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples)


def bounds(values: Float[np.ndarray, " resamples"]) -> tuple[float, float]:
    """Return the percentiles between which `LEVEL` per cent of the resampled values lie."""
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
