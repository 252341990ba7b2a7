"""From hits to pixels: surface coordinates, a lamp and ambient light, filtered lookup in the photographs."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from novelview.scenes.procedural.layout import Room
from novelview.scenes.procedural.photographs import Textures, textures
from novelview.scenes.procedural.tracing import pixel_rays, rays_per_pass, trace, visible_solids

GRAZING = 0.1  # smallest cosine that widens a pixel's footprint


@dataclass(frozen=True)
class Tables:
    """A room's solids and faces as columns, looked up per pixel.

    solids: [12 k] centre xyz, cos, sin, half xyz, lamp in local axes xyz, 1 for spheres; the shell is column 0.
    faces: [4 6k] photograph, repeats a metre, offset u, offset v; gains: [6k 4].
    """

    solids: Float[Tensor, "12 k"]
    faces: Float[Tensor, "4 m"]
    gains: Float[Tensor, "m 4"]
    ambient: float

    @staticmethod
    def of(room: Room, device: str) -> "Tables":
        """Lay a room's description out on `device`."""
        rows = [(*s.centre, *s.turn, *s.half, *s.local(room.light), float(s.round)) for s in room.solids]
        covers = [face for solid in room.solids for face in solid.faces]
        faces = [(float(face.texture), face.density, *face.offset) for face in covers]
        gains = [(*face.gain, 0.0) for face in covers]
        solids, lookups, tints = (torch.tensor(table, device=device) for table in (rows, faces, gains))
        return Tables(solids.T.contiguous(), lookups.T.contiguous(), tints, room.ambient)


def render_frames(
    room: Room,
    c2w: Float[Tensor, "n 4 4"],
    h: int,
    w: int,
    texels: int,
    supersample: int = 1,
    device: str = "cpu",
) -> UInt8[Tensor, "n h w 3"]:
    """Render n views of a room through its own lens, RGB bytes [n h w 3] on `device`.

    texels: low-pass of the photographs (`RoomsSource.texture_texels`); supersample: rays a pixel along each axis.
    """
    bank, tables = textures(room.photographs, texels, device), Tables.of(room, device)
    rows, columns = h * supersample, w * supersample
    frames = max(1, rays_per_pass(device) // (rows * columns))
    parts = []
    for start in range(0, len(c2w), frames):
        poses = c2w[start : start + frames]
        origin, direction = pixel_rays(poses, room.intrinsics, rows, columns, device)
        depth, solid = trace(room.solids, origin, direction, visible_solids(room, poses))
        pixel = 1.0 / (room.intrinsics[0].item() * columns)
        colour = shade(tables, bank, origin, direction, depth, solid, pixel)
        parts.append(_to_bytes(colour.reshape(len(poses), h, supersample, w, supersample, 4)))
    return torch.cat(parts)


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
    """Return colours (fourth channel 0) of the surface points at `depth` along each ray.

    pixel: a pixel's width at unit depth, which decides the mip level.
    """
    number = solid.flatten()
    columns = tables.solids.index_select(1, number)
    point = [(o[:, None] + d * depth).flatten() for o, d in zip(origin.unbind(1), direction, strict=True)]
    x, y, z = _turn(columns, *(value - centre for value, centre in zip(point, columns[:3], strict=True)))
    face, u, v, normal = _surface(columns, number, x, y, z)
    light = tuple(lamp - value for lamp, value in zip(columns[8:11], (x, y, z), strict=True))
    lambert = _dot(normal, light) / _dot(light, light).sqrt()
    bright = tables.ambient + (1.0 - tables.ambient) * lambert.clamp_min(0.0)
    ray = _turn(columns, *(d.flatten() for d in direction))
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
    return face, u, v, _normals(on_x, on_y, qx, qy, qz, columns[11] > 0, number == 0)


def _turn(columns: Tensor, x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    cosine, sine = columns[3:5]
    return cosine * x - sine * z, y, sine * x + cosine * z


def _dot(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> Tensor:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _normals(
    on_x: Tensor, on_y: Tensor, qx: Tensor, qy: Tensor, qz: Tensor, ball: Tensor, shell: Tensor
) -> tuple[Tensor, ...]:
    """Unit normals in local axes; the shell's point inwards."""
    flip = torch.where(shell, -1.0, 1.0)
    y_only, z_only = ~on_x & on_y, ~on_x & ~on_y
    return tuple(
        torch.where(ball, q, torch.where(on, q.sign() * flip, 0.0))
        for q, on in ((qx, on_x), (qy, y_only), (qz, z_only))
    )


def _cover(tables: Tables, bank: Textures, face: Tensor, u: Tensor, v: Tensor, footprint: Tensor) -> Tensor:
    """Look the photographs up at surface coordinates `u`, `v` in metres, between the two nearest mip levels."""
    photo, density, offset_u, offset_v = tables.faces.index_select(1, face)
    u, v = _mirror(u * density + offset_u), _mirror(v * density + offset_v)
    full = int(bank.sizes.shape[0]) - 1
    level = _log2(footprint * density * (1 << full)).clamp(0.0, full)
    lower = level.floor()
    blend = (level - lower)[:, None]
    lower, photo = lower.to(torch.int32), photo.to(torch.int32)
    fine = _bilinear(bank, photo, u, v, lower)
    if not _coarser_needed(level):
        return fine
    coarse = _bilinear(bank, photo, u, v, (lower + 1).clamp_max(full))
    return fine + blend * (coarse - fine)


def _coarser_needed(level: Tensor) -> bool:
    """Tell whether any pixel lies between two mip levels; assumed off the CPU, where the answer would be waited for."""
    return level.device.type != "cpu" or bool((level > 0).any())


def _mirror(repeats: Tensor) -> Tensor:
    """Fold repeats into [0,1], every second one mirrored: photographs do not tile, and this leaves no seams."""
    phase = repeats * 0.5
    phase = phase - phase.floor()
    return 1.0 - (phase * 2.0 - 1.0).abs()


def _log2(value: Tensor) -> Tensor:
    """Piecewise linear log2 from the bits of float32, within 0.09; exact arithmetic, unlike torch.log2."""
    return value.view(torch.int32).to(torch.float32) * 2.0**-23 - 127.0


def _bilinear(bank: Textures, photo: Tensor, u: Tensor, v: Tensor, level: Tensor) -> Tensor:
    size = bank.sizes.index_select(0, level)
    base = bank.starts.index_select(0, level) + photo * size * size
    last = size - 1
    x, y = ((c * size - 0.5).clamp_min(0.0) for c in (u, v))
    left, top = torch.minimum(x.to(torch.int32), last), torch.minimum(y.to(torch.int32), last)
    right, below = torch.minimum(left + 1, last), torch.minimum(top + 1, last)
    fx, fy = (x - left)[:, None], (y - top)[:, None]
    row, next_row = base + top * size, base + below * size
    corners = [
        bank.texels.index_select(0, index) for index in (row + left, row + right, next_row + left, next_row + right)
    ]
    upper = corners[0] + fx * (corners[1] - corners[0])
    under = corners[2] + fx * (corners[3] - corners[2])
    return upper + fy * (under - upper)
