"""Pictures, depth and overlap of a room's views by ray casting in closed form.

All is elementwise add, multiply, divide, compare and square root, which round alike for any number of threads."""

import functools
import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from novelview.scenes.procedural.layout import Room, Solid, Triple, turned
from novelview.scenes.procedural.textures import Textures, textures

NEAREST = 1e-4  # hits nearer than this (in units of the ray's length) lie behind the eye or on its own surface
NEVER_ZERO = 1e-20  # added to directions: 0 would make inf - inf of a ray along an axis
CPU_PASS, GPU_PASS = 1 << 16, 1 << 23  # rays cast at a time: what fits a cache, and what fills a GPU
GRAZING = 0.1  # smallest cosine that widens a pixel's footprint
ROWS = 24  # overlap is counted on a grid of this many rows
TOLERANCE = 0.01  # a point is seen unless something stands nearer than 1 % before it


def render_frames(
    room: Room, c2w: Float[Tensor, "n 4 4"], h: int, w: int, texels: int, supersample: int = 1, device: str = "cpu"
) -> UInt8[Tensor, "n h w 3"]:
    """Render n views of a room through its own lens on `device`; texels, supersample: as in `RoomsSource`."""
    bank, tables = textures(room.photographs, texels, device), Tables.of(room, device)
    rows, columns = h * supersample, w * supersample
    parts = []
    for poses in c2w.split(max(1, _rays_per_pass(device) // (rows * columns))):
        origin, direction = pixel_rays(poses, room.intrinsics, rows, columns, device)
        depth, solid = trace(room.solids, origin, direction, visible_solids(room, poses))
        pixel = 1.0 / (room.intrinsics[0].item() * columns)
        colour = shade(tables, bank, origin, direction, depth, solid, pixel)
        parts.append(_to_bytes(colour.reshape(len(poses), h, supersample, w, supersample, 4)))
    return torch.cat(parts)


def render_depth(
    room: Room, c2w: Float[Tensor, "n 4 4"], intrinsics: Float[Tensor, " 4"], h: int, w: int, device: str = "cpu"
) -> Float[Tensor, "n h w"]:
    """Return the exact z-depth, metres, at the pixel centres of n views of a room; `intrinsics` are normalised."""
    origin, direction = pixel_rays(c2w, intrinsics, h, w, device)
    frames = max(1, _rays_per_pass(device) // (h * w))
    parts = zip(origin.split(frames), direction.split(frames, dim=1), strict=True)
    return torch.cat([trace(room.solids, *part)[0] for part in parts]).reshape(-1, h, w)


def overlaps(room: Room, pairs: list[tuple[int, int]], device: str = "cpu") -> list[float]:
    """Return the overlap in [0,1] of pairs: the share of points the other sees, the smaller of both directions."""
    if not pairs:
        return []
    columns = max(1, round(ROWS * (room.intrinsics[1] / room.intrinsics[0]).item()))
    origin, direction = pixel_rays(room.c2w, room.intrinsics, ROWS, columns, device)
    points = origin.T[:, :, None] + direction * trace(room.solids, origin, direction)[0]
    both = torch.tensor([*pairs, *((second, first) for first, second in pairs)], device=device)
    shares: list[float] = []
    for source, other in (part.unbind(1) for part in both.split(max(1, _rays_per_pass(device) // points.shape[2]))):
        seen = _seen(room, points[:, source], other, origin[other])
        shares += (seen.sum(1) / seen.shape[1]).tolist()
    return [min(pair) for pair in zip(shares[: len(pairs)], shares[len(pairs) :], strict=True)]


def _seen(
    room: Room, points: Float[Tensor, "3 m p"], frames: Tensor, origin: Float[Tensor, "m 3"]
) -> Bool[Tensor, "m p"]:
    rays = points - origin.T[:, :, None]
    rotation = room.c2w.to(rays.device, torch.float32)[frames, :3, :3]
    x, y, z = (sum(rotation[:, axis, column, None] * rays[axis] for axis in range(3)) for column in range(3))
    fx, fy, cx, cy = room.intrinsics.tolist()
    u, v = fx * x / z + cx, fy * y / z + cy
    inside = (z > 0) & (u >= 0) & (u <= 1) & (v >= 0) & (v <= 1)
    return inside & (trace(room.solids, origin, rays)[0] > 1.0 - TOLERANCE)


def _rays_per_pass(device: str) -> int:
    return CPU_PASS if torch.device(device).type == "cpu" else GPU_PASS


def pixel_rays(
    c2w: Float[Tensor, "n 4 4"], intrinsics: Float[Tensor, " 4"], h: int, w: int, device: str = "cpu"
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "3 n p"]]:
    """Return ray origins and directions through all pixel centres, row by row; with z = 1, lengths are depths."""
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
    """Return the distance to the first surface, in direction lengths, and its solid's number, out of `seen`."""
    axes = zip(*_localise(solids[0], origin, direction), solids[0].half, strict=True)
    exits = [(torch.where(d >= 0, half, -half) - o) / (d + NEVER_ZERO) for o, d, half in axes]
    depth = functools.reduce(torch.minimum, exits)
    numbers = torch.zeros_like(depth, dtype=torch.int32)
    for number in range(1, len(solids)) if seen is None else seen:
        solid = solids[number]
        offset, ray = _localise(solid, origin, direction)
        near, hit = _enter_sphere(solid.half[0], offset, ray) if solid.round else _enter_box(solid.half, offset, ray)
        hit &= near > NEAREST
        hit &= near < depth
        depth = torch.where(hit, near, depth)
        numbers.masked_fill_(hit, number)
    return depth, numbers


def _localise(solid: Solid, origin: Tensor, direction: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    offset = (origin - torch.tensor(solid.centre, dtype=origin.dtype, device=origin.device))[..., None].unbind(1)
    if solid.yaw == 0.0:
        return offset, direction.unbind(0)
    return turned(*solid.turn, *offset), turned(*solid.turn, *direction.unbind(0))


def _enter_box(half: Triple, offset: tuple[Tensor, ...], ray: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    inverse = [1.0 / (d + NEVER_ZERO) for d in ray]
    spans = [(-o * i, extent * i.abs()) for o, i, extent in zip(offset, inverse, half, strict=True)]
    near = functools.reduce(torch.maximum, (middle - reach for middle, reach in spans))
    return near, near < functools.reduce(torch.minimum, (middle + reach for middle, reach in spans))


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

    def in_cone(solid: Solid, eye: list[float], axis: list[float]) -> bool:
        towards = [centre - value for centre, value in zip(solid.centre, eye, strict=True)]
        distance = math.hypot(*towards)
        if distance <= solid.radius:
            return True
        cosine = sum(a * b for a, b in zip(towards, axis, strict=True)) / distance
        return math.acos(min(max(cosine, -1.0), 1.0)) <= corner + math.asin(solid.radius / distance) + 1e-3

    objects = list(enumerate(room.solids))[1:]
    return [number for number, solid in objects if any(in_cone(solid, *camera) for camera in cameras)]


@dataclass(frozen=True)
class Tables:
    """A room's k solids, the shell first, and m = 6k faces as columns, looked up per pixel."""

    solids: Float[Tensor, "12 k"]  # centre xyz, cos, sin, half xyz, lamp in local axes xyz, 1 for spheres
    faces: Float[Tensor, "4 m"]  # photograph, repeats a metre, offset u, offset v
    gains: Float[Tensor, "m 4"]
    ambient: float

    @staticmethod
    def of(room: Room, device: str) -> "Tables":
        rows = [(*s.centre, *s.turn, *s.half, *s.local(room.light), float(s.round)) for s in room.solids]
        covers = [face for solid in room.solids for face in solid.faces]
        faces = [(float(face.texture), face.density, *face.offset) for face in covers]
        gains = [(*face.gain, 0.0) for face in covers]
        solids, lookups, tints = (torch.tensor(table, device=device) for table in (rows, faces, gains))
        return Tables(solids.T.contiguous(), lookups.T.contiguous(), tints, room.ambient)


def _to_bytes(samples: Float[Tensor, "n h s w s 4"]) -> UInt8[Tensor, "n h w 3"]:
    count = samples.shape[2]
    total = samples[:, :, 0, :, 0, :3]
    # A fixed order of additions: a library reduction may choose its order by the number of threads.
    for number in range(1, count * count):
        total = total + samples[:, :, number // count, :, number % count, :3]
    return (total * (255.0 / count**2) + 0.5).clamp(0.0, 255.0).to(torch.uint8)


def shade(
    tables: Tables,
    bank: Textures,
    origin: Float[Tensor, "n 3"],
    direction: Float[Tensor, "3 n p"],
    depth: Float[Tensor, "n p"],
    solid: Int[Tensor, "n p"],
    pixel: float,
) -> Float[Tensor, "np 4"]:
    """Return colours (fourth channel 0) of the points at `depth` along each ray; pixel: a pixel's width at depth 1."""
    number = solid.flatten()
    columns = tables.solids.index_select(1, number)
    point = [(o[:, None] + d * depth).flatten() for o, d in zip(origin.unbind(1), direction, strict=True)]
    x, y, z = turned(*columns[3:5], *(value - centre for value, centre in zip(point, columns[:3], strict=True)))
    face, u, v, normal = _surface(columns, number, x, y, z)
    light = tuple(lamp - value for lamp, value in zip(columns[8:11], (x, y, z), strict=True))
    lambert = _dot(normal, light) / _dot(light, light).sqrt()
    bright = tables.ambient + (1.0 - tables.ambient) * lambert.clamp_min(0.0)
    ray = turned(*columns[3:5], *(d.flatten() for d in direction))
    facing = (_dot(normal, ray) / _dot(ray, ray).sqrt()).abs().clamp_min(GRAZING)
    colour = _cover(tables, bank, face, u, v, depth.flatten() * pixel / facing.sqrt())
    return colour * tables.gains.index_select(0, face) * bright[:, None]


def _surface(
    columns: Tensor, number: Tensor, x: Tensor, y: Tensor, z: Tensor
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
    """Return face number, surface coordinates in metres, and unit normal of points in their solid's own axes."""
    qx, qy, qz = (value / half for value, half in zip((x, y, z), columns[5:8], strict=True))
    ax, ay, az = qx.abs(), qy.abs(), qz.abs()
    on_x, on_y = (ax >= ay) & (ax >= az), ay >= az
    largest = torch.maximum(torch.maximum(ax, ay), az)
    side = torch.where(on_x, qx, torch.where(on_y, qy, qz)) > 0
    face = number * 6 + torch.where(on_x, 0, torch.where(on_y, 2, 4)).to(torch.int32) + side
    u, v = torch.where(on_x, z, x) / largest, torch.where(on_x | ~on_y, y, z) / largest
    ball, flip = columns[11] > 0, torch.where(number == 0, -1.0, 1.0)  # the shell's normals point inwards
    axes = ((qx, on_x), (qy, ~on_x & on_y), (qz, ~on_x & ~on_y))
    normal = tuple(torch.where(ball, q, torch.where(on, q.sign() * flip, 0.0)) for q, on in axes)
    return face, u, v, normal


def _dot(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> Tensor:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _cover(tables: Tables, bank: Textures, face: Tensor, u: Tensor, v: Tensor, footprint: Tensor) -> Tensor:
    """Look the photographs up at surface coordinates `u`, `v` in metres, between the two nearest mip levels."""
    photo, density, offset_u, offset_v = tables.faces.index_select(1, face)
    u, v = _mirror(u * density + offset_u), _mirror(v * density + offset_v)
    full = int(bank.sizes.shape[0]) - 1
    # log2 from the bits of float32, piecewise linear within 0.09: exact arithmetic, unlike torch.log2.
    bits = (footprint * density * (1 << full)).view(torch.int32).to(torch.float32)
    level = (bits * 2.0**-23 - 127.0).clamp(0.0, full)
    lower = level.floor()
    blend = (level - lower)[:, None]
    lower, photo = lower.to(torch.int32), photo.to(torch.int32)
    fine = _bilinear(bank, photo, u, v, lower)
    if not _coarser_needed(level):
        return fine
    return fine + blend * (_bilinear(bank, photo, u, v, (lower + 1).clamp_max(full)) - fine)


def _mirror(repeats: Tensor) -> Tensor:
    """Fold repeats into [0,1], every second one mirrored: photographs do not tile, and this leaves no seams."""
    phase = repeats * 0.5
    return 1.0 - ((phase - phase.floor()) * 2.0 - 1.0).abs()


def _coarser_needed(level: Tensor) -> bool:
    """Tell whether any pixel lies between two mip levels; off the CPU yes, where the answer would be waited for."""
    return level.device.type != "cpu" or bool((level > 0).any())


def _bilinear(bank: Textures, photo: Tensor, u: Tensor, v: Tensor, level: Tensor) -> Tensor:
    size = bank.sizes.index_select(0, level)
    base = bank.starts.index_select(0, level) + photo * size * size
    last = size - 1
    x, y = ((c * size - 0.5).clamp_min(0.0) for c in (u, v))
    left, top = torch.minimum(x.to(torch.int32), last), torch.minimum(y.to(torch.int32), last)
    right, below = torch.minimum(left + 1, last), torch.minimum(top + 1, last)
    fx, fy = (x - left)[:, None], (y - top)[:, None]
    edges = []
    for row in (base + top * size, base + below * size):
        near, far = bank.texels.index_select(0, row + left), bank.texels.index_select(0, row + right)
        edges.append(near + fx * (far - near))
    return edges[0] + fy * (edges[1] - edges[0])
