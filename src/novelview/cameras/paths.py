"""Camera paths: through given cameras (specs/uplvsm.md section 11), and around the origin (specs/lact.md section 9)."""

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
    ease: bool = False,
) -> tuple[Float[Tensor, "n 4 4"], Float[Tensor, "n 4"]]:
    """Return cameras on the path through `c2w`, `num_frames` from each camera to the next, both ends included.

    Centres and intrinsics move on straight lines, rotations by the shortest slerp. `order` takes `nearest_order`,
    `loop` returns to the first, `ease` moves along each leg as (1 - cos(pi t)) / 2 and shows no camera twice. Raises
    DataError for fewer than two cameras or frames."""
    if len(c2w) < 2 or num_frames < 2:
        raise DataError(f"a path needs two cameras and two frames a leg, not {len(c2w)} and {num_frames}")
    stops = nearest_order(c2w[:, :3, 3]) if order else list(range(len(c2w)))
    stops += stops[:1] if loop else []
    weight = torch.linspace(0, 1, num_frames, dtype=torch.float64)
    if ease:  # in [0,1): the end of a leg is the start of the next
        weight = (1 - torch.cos(torch.arange(num_frames, dtype=torch.float64) * (math.pi / num_frames))) / 2
    legs = list(pairwise(stops))
    poses = [_leg(c2w[start].double(), c2w[end].double(), weight) for start, end in legs]
    steps = weight[:, None].to(intrinsics)
    lenses = [torch.lerp(intrinsics[start], intrinsics[end], steps) for start, end in legs]
    if ease and not loop:
        poses, lenses = [*poses, c2w[stops[-1:]].double()], [*lenses, intrinsics[stops[-1:]]]
    return torch.cat(poses).to(c2w), torch.cat(lenses)


def along(
    c2w: Float[Tensor, "v 4 4"], intrinsics: Float[Tensor, "v 4"], places: Float[Tensor, " n"], blend: str = "slerp"
) -> tuple[Float[Tensor, "n 4 4"], Float[Tensor, "n 4"]]:
    """Return cameras at `places`, ascending in [0, v-1]; blend: slerp, or entrywise as in specs/lact.md section 9."""
    if len(c2w) < 2:
        raise DataError(f"a path needs two cameras, not {len(c2w)}")
    places = places.to(c2w.device, torch.float64)
    legs = places.floor().long().clamp(0, len(c2w) - 2)
    poses, lenses = [], []
    for leg in legs.unique().tolist():
        weight = (places - leg)[legs == leg]
        ends = c2w[leg].double(), c2w[leg + 1].double()
        poses.append(_leg(*ends, weight) if blend == "slerp" else torch.lerp(*ends, weight[:, None, None]))
        lenses.append(torch.lerp(intrinsics[leg].double(), intrinsics[leg + 1].double(), weight[:, None]))
    return torch.cat(poses).to(c2w), torch.cat(lenses).to(intrinsics)


def turntable(
    num_frames: int,
    height: int,
    width: int,
    hfov: float = 50.0,
    elevation: float = 30.0,
    swing: float = 15.0,
    min_radius: float = 1.7,
    max_radius: float = 3.0,
    swap_sides: bool = False,
) -> tuple[Float[Tensor, "n 4 4"], Float[Tensor, "n 4"]]:
    """Return cameras on a wavy circle around the origin, world z up, looking at it (specs/lact.md section 9).

    Elevation +- swing [degrees] and the distance in [min_radius, max_radius] are sines over one turn. hfov: horizontal,
    degrees. `swap_sides` takes height for width in the intrinsics, as the reference does (docs/quirks.md)."""
    azimuth = torch.arange(num_frames, dtype=torch.float64) * (2 * math.pi / num_frames)
    wave = torch.linspace(0, 2 * math.pi, num_frames, dtype=torch.float64).sin()
    polar = torch.deg2rad(elevation + swing * wave)
    radius = (min_radius + max_radius) / 2 + (max_radius - min_radius) / 2 * wave
    outward = torch.stack([polar.cos() * azimuth.cos(), polar.cos() * azimuth.sin(), polar.sin()], dim=-1)
    right = torch.stack([-azimuth.sin(), azimuth.cos(), torch.zeros_like(azimuth)], dim=-1)
    down = torch.linalg.cross(-outward, right)
    c2w = torch.eye(4, dtype=torch.float64).repeat(num_frames, 1, 1)
    c2w[:, :3] = torch.stack([right, down, -outward, radius[:, None] * outward], dim=-1)
    across, high = (height, width) if swap_sides else (width, height)
    focal = across / 2 / math.tan(math.radians(hfov) / 2)
    return c2w.float(), torch.tensor([focal, focal, across / 2, high / 2]).repeat(num_frames, 1)


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
    one, two = mat_to_quat(start[:3, :3]), mat_to_quat(end[:3, :3])
    cosine = torch.dot(one, two)
    if cosine < 0:  # the shorter arc
        two, cosine = -two, -cosine
    if cosine > PARALLEL:
        turned = torch.nn.functional.normalize(torch.lerp(one, two, weight[:, None]), dim=-1)
    else:
        angle = torch.arccos(cosine)
        turned = torch.sin((1 - weight) * angle)[:, None] * one + torch.sin(weight * angle)[:, None] * two
        turned = turned / angle.sin()
    poses[:, :3, :3] = quat_to_mat(turned)
    return poses
