"""The attention overlay of the paper: one patch of view 0, where it looks in view 1 (specs/uplvsm.md section 11)."""

import numpy as np
from jaxtyping import Float

from novelview.errors import DataError

STOPS = np.array([[0.267, 0.005, 0.329], [0.128, 0.567, 0.551], [0.369, 0.789, 0.383], [0.993, 0.906, 0.144]])
OPACITY = 0.5
RED = np.array([1.0, 0.0, 0.0])


def overlay(
    attention: Float[np.ndarray, "n n"],
    first: Float[np.ndarray, "h w 3"],
    second: Float[np.ndarray, "h w 3"],
    patch: int,
    size: int,
) -> tuple[Float[np.ndarray, "h w 3"], Float[np.ndarray, "h w 3"]]:
    """Return view 0 with patch number `patch` (row by row) in half red, and view 1 under the patch's attention.

    attention: weights among the image tokens of two views; views are RGB in [0,1]; `size` is the patch side in pixels.
    Raises DataError unless the map is that of exactly two such views and the patch is one of view 0's.
    """
    rows, columns = first.shape[0] // size, first.shape[1] // size
    count = rows * columns
    if attention.shape != (2 * count, 2 * count):
        raise DataError(f"attention of {attention.shape} does not belong to two views of {rows}x{columns} patches")
    if not 0 <= patch < count:
        raise DataError(f"patch {patch} does not exist; the view has patches 0 to {count - 1}")
    weights = attention[patch, count : 2 * count]
    span = weights.max() - weights.min()
    heat = colours((weights - weights.min()) / span if span > 0 else np.zeros_like(weights))
    heat = heat.reshape(rows, columns, 3).repeat(size, axis=0).repeat(size, axis=1)
    marked = first.copy()
    row, column = (number * size for number in divmod(patch, columns))
    area = np.s_[row : row + size, column : column + size]
    marked[area] = (1 - OPACITY) * first[area] + OPACITY * RED
    return marked, (1 - OPACITY) * second + OPACITY * heat


def colours(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 3"]:
    """Colour values in [0,1] by straight lines between four stops of the viridis map."""
    places = np.linspace(0, 1, len(STOPS))
    return np.stack([np.interp(values, places, STOPS[:, channel]) for channel in range(3)], axis=-1)
