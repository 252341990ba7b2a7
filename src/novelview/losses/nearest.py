"""Exact nearest neighbours between point clouds."""

from importlib.util import find_spec

import torch
from jaxtyping import Float, Int
from torch import Tensor

PAIRS = 2**27  # of distances held at a time on an accelerator: 512 MiB in float32


def nearest(queries: Float[Tensor, "n 3"], points: Float[Tensor, "m 3"]) -> Int[Tensor, " n"]:
    """Return the index of the point nearest to every query, by a k-d tree on the CPU and by brute force elsewhere.

    Where SciPy is not installed (a bare machine, docs/mini.md), brute force finds the same on the CPU.
    """
    if queries.device.type == "cpu" and find_spec("scipy"):
        from scipy.spatial import KDTree

        tree = KDTree(points.detach().numpy())
        _, index = tree.query(queries.detach().numpy(), workers=torch.get_num_threads())
        return torch.from_numpy(index)
    return nearest_brute_force(queries, points)


@torch.no_grad()
def nearest_brute_force(
    queries: Float[Tensor, "n 3"], points: Float[Tensor, "m 3"], pairs: int = PAIRS
) -> Int[Tensor, " n"]:
    """Return the same from all distances, at most `pairs` (or one query's) at a time.

    Distances come from differences: the shortcut over a matrix product loses the digits that decide between neighbours.
    """
    found = [
        torch.cdist(part, points, compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=1)
        for part in queries.split(max(1, pairs // len(points)))
    ]
    return torch.cat(found)
