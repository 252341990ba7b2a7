"""Ray casting in closed form: the room's box from inside, other boxes by slabs, spheres by their quadratic.

Everything is elementwise add, multiply, divide, compare and square root, which round the same way whatever the number
of threads, so the frames do not depend on it.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from novelview.scenes.procedural.layout import Room
from novelview.scenes.procedural.solids import Solid

NEAREST = 1e-4  # hits nearer than this (in units of the ray's length) lie behind the eye or on its own surface
NEVER_ZERO = 1e-20  # added to directions: 0 would make inf - inf of a ray along an axis
CPU_PASS, GPU_PASS = 1 << 16, 1 << 23  # rays cast at a time: what fits a cache, and what fills a GPU


def rays_per_pass(device: str | torch.device) -> int:
    """Return how many rays are cast at a time on a device."""
    return CPU_PASS if torch.device(device).type == "cpu" else GPU_PASS


def pixel_rays(
    c2w: Float[Tensor, "n 4 4"], intrinsics: Float[Tensor, " 4"], h: int, w: int, device: str = "cpu"
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "3 n p"]]:
    """Return ray origins and directions, float32, through the centres of all h * w pixels, row by row.

    `intrinsics` are normalised. A direction has z = 1 in its camera's axes, so ray lengths are z-depths in metres.
    """
    fx, fy, cx, cy = intrinsics.tolist()
    u = (torch.arange(w, device=device, dtype=torch.float32) + 0.5) / w
    v = (torch.arange(h, device=device, dtype=torch.float32) + 0.5) / h
    x, y = ((u - cx) / fx).repeat(h), ((v - cy) / fy).repeat_interleave(w)
    pose = c2w.to(device, torch.float32)
    rotation = pose[:, :3, :3].permute(1, 2, 0)[..., None]
    direction = rotation[:, 0] * x + rotation[:, 1] * y + rotation[:, 2]
    return pose[:, :3, 3], direction


def trace(
    solids: tuple[Solid, ...],
    origin: Float[Tensor, "n 3"],
    direction: Float[Tensor, "3 n p"],
    seen: list[int] | None = None,
) -> tuple[Float[Tensor, "n p"], Int[Tensor, "n p"]]:
    """Return the distance to the first surface, in units of each direction's length, and the number of its solid.

    origin: one a frame, in metres; `seen`: numbers of the solids that can be hit at all (default: all).
    """
    depth = _leave(solids[0], origin, direction)
    solid = torch.zeros_like(depth, dtype=torch.int32)
    for number in range(1, len(solids)) if seen is None else seen:
        near, hit = _enter(solids[number], origin, direction)
        hit &= near > NEAREST
        hit &= near < depth
        depth = torch.where(hit, near, depth)
        solid.masked_fill_(hit, number)
    return depth, solid


def to_local(solid: Solid, vectors: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Turn world vectors (not points) into the solid's own axes."""
    x, y, z = vectors
    if solid.yaw == 0.0:
        return x, y, z
    cosine, sine = solid.turn
    return cosine * x - sine * z, y, sine * x + cosine * z


def _localise(solid: Solid, origin: Tensor, direction: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    offset = (origin - torch.tensor(solid.centre, dtype=origin.dtype, device=origin.device))[..., None].unbind(1)
    return to_local(solid, offset), to_local(solid, direction.unbind(0))  # type: ignore[arg-type]


def _leave(solid: Solid, origin: Tensor, direction: Tensor) -> Tensor:
    offset, ray = _localise(solid, origin, direction)
    far = None
    for o, d, half in zip(offset, ray, solid.half, strict=True):
        exit_axis = (torch.where(d >= 0, half, -half) - o) / (d + NEVER_ZERO)
        far = exit_axis if far is None else torch.minimum(far, exit_axis)
    assert far is not None
    return far


def _enter(solid: Solid, origin: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    offset, ray = _localise(solid, origin, direction)
    return _enter_sphere(solid.half[0], offset, ray) if solid.round else _enter_box(solid.half, offset, ray)


def _enter_box(
    half: tuple[float, float, float], offset: tuple[Tensor, ...], ray: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    near = far = None
    for o, d, extent in zip(offset, ray, half, strict=True):
        inverse = 1.0 / (d + NEVER_ZERO)
        middle, reach = -o * inverse, extent * inverse.abs()
        first, last = middle - reach, middle + reach
        near = first if near is None else torch.maximum(near, first)
        far = last if far is None else torch.minimum(far, last)
    assert near is not None and far is not None
    return near, near < far


def _enter_sphere(radius: float, offset: tuple[Tensor, ...], ray: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    (ox, oy, oz), (dx, dy, dz) = offset, ray
    a = dx * dx + dy * dy + dz * dz
    b = ox * dx + oy * dy + oz * dz
    c = ox * ox + oy * oy + oz * oz - radius * radius
    root = b * b - a * c
    return (-b - root.clamp_min(0.0).sqrt()) / a, root > 0


def visible_solids(room: Room, c2w: Float[Tensor, "n 4 4"]) -> list[int]:
    """Return the numbers of the objects whose bounding sphere meets the viewing cone of at least one camera."""
    corner = math.atan(math.hypot(*(0.5 / room.intrinsics[:2]).tolist()))
    cameras = [(pose[0:3, 3].tolist(), pose[0:3, 2].tolist()) for pose in c2w]
    return [
        number
        for number, solid in enumerate(room.solids)
        if number and any(_in_cone(solid, eye, axis, corner) for eye, axis in cameras)
    ]


def _in_cone(solid: Solid, eye: list[float], axis: list[float], half_angle: float) -> bool:
    towards = [centre - value for centre, value in zip(solid.centre, eye, strict=True)]
    distance = math.hypot(*towards)
    if distance <= solid.radius:
        return True
    cosine = sum(a * b for a, b in zip(towards, axis, strict=True)) / distance
    angle = math.acos(min(max(cosine, -1.0), 1.0))
    return angle <= half_angle + math.asin(solid.radius / distance) + 1e-3


def render_depth(
    room: Room, c2w: Float[Tensor, "n 4 4"], intrinsics: Float[Tensor, " 4"], h: int, w: int, device: str = "cpu"
) -> Float[Tensor, "n h w"]:
    """Return the exact z-depth, metres, at the pixel centres of n views of a room; `intrinsics` are normalised."""
    origin, direction = pixel_rays(c2w, intrinsics, h, w, device)
    frames = max(1, rays_per_pass(device) // (h * w))
    parts = [
        trace(room.solids, origin[start : start + frames], direction[:, start : start + frames])[0]
        for start in range(0, len(origin), frames)
    ]
    return torch.cat(parts).reshape(-1, h, w)
