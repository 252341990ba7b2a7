"""Overlap of two views of a room from its exact geometry: what share of each is seen by the other."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from novelview.scenes.procedural.layout import Room
from novelview.scenes.procedural.tracing import pixel_rays, rays_per_pass, trace

ROWS = 24  # overlap is counted on a grid of this many rows
TOLERANCE = 0.01  # a point is seen unless something stands nearer than 1 % before it


def overlap(room: Room, first: int, second: int, device: str = "cpu") -> float:
    """Return the overlap in [0,1] of two frames of a room's clip; see `overlaps`."""
    return overlaps(room, [(first, second)], device)[0]


def overlaps(room: Room, pairs: list[tuple[int, int]], device: str = "cpu") -> list[float]:
    """Return the overlap in [0,1] of each pair of frames: the smaller of the two directions, as pixelSplat's index has.

    A direction's value is the share of the first frame's points, on a grid of 24 rows, that project into the second
    frame and are the first surface there along their exact ray, within 1 % of the distance.
    """
    if not pairs:
        return []
    aspect = (room.intrinsics[1] / room.intrinsics[0]).item()
    columns = max(1, round(ROWS * aspect))
    origin, direction = pixel_rays(room.c2w, room.intrinsics, ROWS, columns, device)
    points = origin.T[:, :, None] + direction * trace(room.solids, origin, direction)[0]
    at_once = max(1, rays_per_pass(device) // points.shape[2])
    both = [*pairs, *((second, first) for first, second in pairs)]
    shares: list[float] = []
    for start in range(0, len(both), at_once):
        source, other = torch.tensor(both[start : start + at_once], device=device).unbind(1)
        seen = _seen(room, points[:, source], other, origin[other])
        shares += (seen.sum(1) / seen.shape[1]).tolist()
    return [min(pair) for pair in zip(shares[: len(pairs)], shares[len(pairs) :], strict=True)]


def _seen(
    room: Room, points: Float[Tensor, "3 m p"], frames: Tensor, origin: Float[Tensor, "m 3"]
) -> Bool[Tensor, "m p"]:
    """Tell which world points lie inside the image of their frame and are not hidden there."""
    rays = points - origin.T[:, :, None]
    rotation = room.c2w.to(rays.device, torch.float32)[frames, :3, :3]
    x, y, z = (sum(rotation[:, axis, column, None] * rays[axis] for axis in range(3)) for column in range(3))
    fx, fy, cx, cy = room.intrinsics.tolist()
    u, v = fx * x / z + cx, fy * y / z + cy
    inside = (z > 0) & (u >= 0) & (u <= 1) & (v >= 0) & (v <= 1)
    return inside & (trace(room.solids, origin, rays)[0] > 1.0 - TOLERANCE)
