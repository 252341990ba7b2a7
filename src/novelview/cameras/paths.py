"""Camera paths through given cameras (specs/uplvsm.md section 11)."""

import math
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from novelview.cameras.poses import mat_to_quat, quat_to_mat
from novelview.errors import DataError

PARALLEL = 1 - 1e-9  # quaternions this close are interpolated linearly: the slerp weights are 0/0 there


def interpolate(
    c2w: Float[Tensor, "v 4 4"],
    intrinsics: Float[Tensor, "v 4"],
    num_frames: int,
    loop: bool = False,
    order: bool = False,
) -> tuple[Float[Tensor, "n 4 4"], Float[Tensor, "n 4"]]:
    """Return cameras on the path through `c2w`, `num_frames` from each camera to the next, both ends included.

    Centres and intrinsics move on straight lines, rotations by the shortest slerp. `order` first sorts the cameras
    greedily, each followed by the nearest centre left; `loop` returns to the first. Raises DataError for fewer than
    two cameras or frames.
    """
    if len(c2w) < 2 or num_frames < 2:
        raise DataError(f"a path needs two cameras and two frames a leg, not {len(c2w)} and {num_frames}")
    stops = nearest_order(c2w[:, :3, 3]) if order else list(range(len(c2w)))
    stops += [stops[0]] if loop else []
    weight = torch.linspace(0, 1, num_frames, dtype=torch.float64)
    legs = list(pairwise(stops))
    poses = [_leg(c2w[start].double(), c2w[end].double(), weight) for start, end in legs]
    steps = weight[:, None].to(intrinsics)
    lenses = [torch.lerp(intrinsics[start], intrinsics[end], steps) for start, end in legs]
    return torch.cat(poses).to(c2w), torch.cat(lenses)


def nearest_order(centres: Float[Tensor, "v 3"]) -> list[int]:
    """Return an order that starts at camera 0 and goes to the nearest camera not yet visited."""
    order, left = [0], list(range(1, len(centres)))
    while left:
        distances = (centres[left] - centres[order[-1]]).norm(dim=-1)
        order.append(left.pop(int(distances.argmin())))
    return order


def _leg(start: Float[Tensor, "4 4"], end: Float[Tensor, "4 4"], weight: Float[Tensor, " n"]) -> Float[Tensor, "n 4 4"]:
    weight = weight.to(start.device)
    poses = torch.eye(4, dtype=start.dtype, device=start.device).repeat(len(weight), 1, 1)
    poses[:, :3, 3] = torch.lerp(start[:3, 3], end[:3, 3], weight[:, None])
    poses[:, :3, :3] = quat_to_mat(slerp(mat_to_quat(start[:3, :3]), mat_to_quat(end[:3, :3]), weight))
    return poses


def slerp(start: Float[Tensor, " 4"], end: Float[Tensor, " 4"], weight: Float[Tensor, " n"]) -> Float[Tensor, "n 4"]:
    """Return unit quaternions on the shorter arc from `start` to `end` at the given weights in [0,1]."""
    cosine = torch.dot(start, end)
    if cosine < 0:
        end, cosine = -end, -cosine
    if cosine > PARALLEL:
        return torch.nn.functional.normalize(torch.lerp(start, end, weight[:, None]), dim=-1)
    angle = torch.arccos(cosine)
    return (torch.sin((1 - weight) * angle)[:, None] * start + torch.sin(weight * angle)[:, None] * end) / angle.sin()
