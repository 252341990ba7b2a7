"""What a room is made of, and how one is drawn at random: seeds, solids, and the camera's motion.

World axes are OpenCV's: x right, y down, z forward, in metres; the room's box is centred on the origin."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from novelview.config.sources import RoomsSource
from novelview.errors import ConfigError
from novelview.scenes.procedural.textures import GREY, photographs, pool

SPLITS = ("train", "seen", "new", "twin")  # twin n: other content under the cameras of new room n
ATTEMPTS = 100  # camera paths tried before the configuration is called impossible
FROM_WALLS = 0.5  # metres the camera keeps from every wall
FROM_OBJECTS = 0.45  # and from every object
Triple = tuple[float, float, float]


def _hash(*parts: object) -> str:
    return hashlib.sha256("\0".join(["novelview rooms", *map(str, parts)]).encode()).hexdigest()[:16]


def room_seed(seed: int, split: str, number: int) -> int:
    """Return the 63-bit seed of a room."""
    return int(_hash("seed", seed, split, number), 16) >> 1


def scene_key(seed: int, split: str, number: int) -> str:
    """Return the scene's key: 16 hex digits as in RealEstate10K (specs/re10k_format.md section 1)."""
    return _hash("key", seed, split, number)


class Draws:
    """Random choices from one CPU torch generator, so that a room is the same on every device."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def uniform(self, low: float, high: float) -> float:  # in [low, high)
        return low + (high - low) * torch.rand((), generator=self._generator, dtype=torch.float64).item()

    def integer(self, low: int, high: int) -> int:
        """Return an integer in [low, high], both ends included."""
        return int(torch.randint(low, high + 1, (), generator=self._generator).item())

    def sign(self) -> float:
        return 2.0 * self.integer(0, 1) - 1.0

    def sample(self, count: int, high: int) -> list[int]:
        """Return `count` distinct integers of range(high), ascending."""
        return sorted(torch.randperm(high, generator=self._generator)[:count].tolist())


@dataclass(frozen=True)
class Face:
    """How one face is covered: texture number, repeats a metre, offset in repeats, RGB gain."""

    texture: int
    density: float
    offset: tuple[float, float]
    gain: Triple


def turned(cosine: Any, sine: Any, x: Any, y: Any, z: Any) -> tuple[Any, Any, Any]:
    """Return numbers or tensors x, y, z in axes turned about y by the angle of this cosine and sine."""
    return cosine * x - sine * z, y, sine * x + cosine * z


@dataclass(frozen=True)
class Solid:
    """A box turned by `yaw` radians about the y axis, or a sphere where `round`; centre and half extents in metres."""

    centre: Triple
    yaw: float
    half: Triple
    round: bool
    faces: tuple[Face, ...]  # -x, +x, -y, +y, -z, +z of its own axes; a sphere is covered like a cube map

    @property
    def turn(self) -> tuple[float, float]:
        return math.cos(self.yaw), math.sin(self.yaw)

    @property
    def radius(self) -> float:
        """The radius of the bounding sphere in metres."""
        return self.half[0] if self.round else math.hypot(*self.half)

    def local(self, point: Triple) -> Triple:
        return turned(*self.turn, *(value - centre for value, centre in zip(point, self.centre, strict=True)))

    def distance(self, point: Triple) -> float:
        """Return the distance in metres from a point outside to the surface; 0 inside."""
        local = self.local(point)
        if self.round:
            return max(math.hypot(*local) - self.half[0], 0.0)
        return math.hypot(*(max(abs(value) - half, 0.0) for value, half in zip(local, self.half, strict=True)))


@dataclass(frozen=True)
class Room:
    """One room with its clip's cameras; `solids[0]` is the room itself, seen from inside."""

    split: str
    number: int
    key: str
    photographs: tuple[str, ...]
    solids: tuple[Solid, ...]
    light: Triple  # position of the lamp in metres
    ambient: float  # share of the light that comes from everywhere, in [0,1]
    c2w: Float[Tensor, "n 4 4"]  # float64
    intrinsics: Float[Tensor, " 4"]  # float64, normalised fx/W fy/H cx/W cy/H of every frame


def room_for(source: RoomsSource, split: str, number: int) -> Room:
    """Draw room `number` of a split; raises ConfigError for an unknown one, and when no camera path fits the room."""
    if split not in SPLITS:
        raise ConfigError(f"rooms have no split '{split}'; choose one of {', '.join(SPLITS)}")
    if split == "twin":
        return _twin(source, room_for(source, "new", number))
    draws = Draws(room_seed(source.seed, split, number))
    names = pool(split, source.patterns)
    focal = 0.5 / math.tan(math.radians(draws.uniform(*source.fov)) / 2)
    intrinsics = torch.tensor([focal, focal * source.width / source.height, 0.5, 0.5], dtype=torch.float64)
    half = (draws.uniform(2.3, 3.8), draws.uniform(1.3, 1.65), draws.uniform(2.3, 3.8))
    shell = Solid((0.0, 0.0, 0.0), 0.0, half, False, tuple(_face(draws, source, names) for _ in range(6)))
    count = draws.integer(*source.objects)
    light = (0.6 * draws.uniform(-1, 1) * half[0], -0.85 * half[1], 0.6 * draws.uniform(-1, 1) * half[2])
    ambient = draws.uniform(0.45, 0.65)
    for _ in range(ATTEMPTS):
        solids = [shell, *(_object(draws, source, names, half) for _ in range(count))]
        c2w = _camera_path(draws, source, half)
        if clearance_ok(c2w[:, :3, 3], solids):
            key = scene_key(source.seed, split, number)
            return Room(split, number, key, names, tuple(solids), light, ambient, c2w, intrinsics)
    raise ConfigError(
        f"source.dolly={source.dolly}, source.objects={source.objects}: no free camera path in room {split}/{number} "
        f"after {ATTEMPTS} tries; lower one of them"
    )


def _twin(source: RoomsSource, first: Room) -> Room:
    """Draw a room of the same size, path and lens as `first`, with surfaces, objects and light of its own."""
    split, number = "twin", first.number
    draws, half = Draws(room_seed(source.seed, split, number)), first.solids[0].half
    names = first.photographs
    shell = Solid((0.0, 0.0, 0.0), 0.0, half, False, tuple(_face(draws, source, names) for _ in range(6)))
    count = draws.integer(*source.objects)
    light = (0.6 * draws.uniform(-1, 1) * half[0], -0.85 * half[1], 0.6 * draws.uniform(-1, 1) * half[2])
    ambient = draws.uniform(0.45, 0.65)
    solids = [shell]
    for _ in range(ATTEMPTS):  # object by object, because the path is given
        thing = _object(draws, source, names, half)
        if len(solids) <= count and clearance_ok(first.c2w[:, :3, 3], [shell, thing]):
            solids.append(thing)
    key = scene_key(source.seed, split, number)
    return replace(first, split=split, key=key, solids=tuple(solids), light=light, ambient=ambient)


def _face(draws: Draws, source: RoomsSource, names: tuple[str, ...]) -> Face:
    real = photographs(names)
    made_up = real < len(names) and draws.uniform(0, 1) < 0.5  # not drawn without patterns: such rooms stay the same
    texture = draws.integer(real, len(names) - 1) if made_up else draws.integer(0, real - 1)
    density = draws.uniform(*source.texture_density)
    offset = (draws.uniform(0, 2), draws.uniform(0, 2))
    tints = (0.6, 1.15) if names[texture] in GREY else (0.85, 1.1)
    return Face(texture, density, offset, (draws.uniform(*tints), draws.uniform(*tints), draws.uniform(*tints)))


def _object(draws: Draws, source: RoomsSource, names: tuple[str, ...], room: Triple) -> Solid:
    """Draw a box on the floor, a sphere, a partition or a picture on a wall, its faces alike; it may touch others."""
    drawn = [_face(draws, source, names) for _ in range(6)]
    faces = tuple(replace(drawn[0], offset=face.offset) for face in drawn)
    kind = draws.integer(0, 4)
    if kind == 0:  # a flat box against one of the four walls
        wide, tall, thick = draws.uniform(0.4, 0.9), draws.uniform(0.3, 0.6), 0.03
        along_x, side = draws.integer(0, 1) == 1, draws.sign()
        wall, run = (room[2], room[0]) if along_x else (room[0], room[2])
        away, along = side * (wall - thick), draws.uniform(-(run - wide), run - wide)
        height = draws.uniform(-0.35, 0.1) * room[1]
        if along_x:
            return Solid((along, height, away), 0.0, (wide, tall, thick), False, faces)
        return Solid((away, height, along), 0.0, (thick, tall, wide), False, faces)
    if kind == 1:
        radius = draws.uniform(0.25, 0.5)
        height = draws.uniform(-0.3 * room[1], room[1] - radius)
        return Solid(_spot(draws, room, radius, height), 0.0, (radius, radius, radius), True, faces)
    half_x, half_z = draws.uniform(0.3, 0.65), draws.uniform(0.3, 0.65)
    half_y = draws.uniform(0.7, 1.1) if kind == 2 else draws.uniform(0.25, 0.65)
    half = (half_x, half_y, 0.04 if kind == 2 else half_z)
    place = _spot(draws, room, math.hypot(half[0], half[2]), room[1] - half_y)
    return Solid(place, draws.uniform(-math.pi / 2, math.pi / 2), half, False, faces)


def _spot(draws: Draws, room: Triple, reach: float, height: float) -> Triple:
    x, z = room[0] - reach, room[2] - reach
    return draws.uniform(-x, x), height, draws.uniform(-z, z)


def _camera_path(draws: Draws, source: RoomsSource, room: Triple) -> Float[Tensor, "n 4 4"]:
    """Draw camera-to-world matrices, float64, like real-estate videos: a slightly bent dolly, and a pan."""
    middle = (draws.uniform(-0.7, 0.7) * room[0], room[1] - draws.uniform(1.2, 1.6), draws.uniform(-0.7, 0.7) * room[2])
    # Looking across the room, to a point on the far side of its middle, brings most objects into view.
    aim = [draws.uniform(-0.3, 0.3) * room[0] - 0.5 * middle[0], draws.uniform(-0.3, 0.3) * room[2] - 0.5 * middle[2]]
    heading = math.atan2(aim[0] - middle[0], aim[1] - middle[2])
    degrees = draws.sign() * draws.uniform(*source.pan) + draws.sign() * draws.uniform(*source.drift)
    length, course = draws.uniform(*source.dolly), heading + math.radians(draws.uniform(-75, 75))
    bend, rise = draws.uniform(-0.15, 0.15) * length, draws.uniform(-0.1, 0.1)
    pitch, nod = math.radians(draws.uniform(-14, 2)), math.radians(draws.uniform(-4, 4))
    ease, turn = draws.uniform(-0.3, 0.3), math.radians(degrees)

    def pose(clock: float) -> list[list[float]]:
        clock += ease * math.sin(2 * math.pi * clock) / (2 * math.pi)
        half, across = clock - 0.5, bend * math.sin(math.pi * clock)
        along, sine, cosine = half * length, math.sin(course), math.cos(course)
        x = middle[0] + along * sine + across * cosine
        z = middle[2] + along * cosine - across * sine
        yaw, tilt = heading + turn * half, pitch + nod * half  # to the right and up
        cy, sy, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(tilt), math.sin(tilt)
        rows = [[cy, sy * sp, sy * cp, x], [0.0, cp, -sp, middle[1] + half * rise], [-sy, cy * sp, cy * cp, z]]
        return [*rows, [0.0, 0.0, 0.0, 1.0]]

    return torch.tensor([pose(frame / (source.frames - 1)) for frame in range(source.frames)], dtype=torch.float64)


def clearance_ok(places: Float[Tensor, "n 3"], solids: Sequence[Solid]) -> bool:
    """Tell whether all camera centres, metres, keep clear of the walls of `solids[0]` and of the other solids."""
    free = [half - FROM_WALLS for half in solids[0].half]
    inside = all(abs(value) <= limit for place in places.tolist() for value, limit in zip(place, free, strict=True))
    points = [tuple(place) for place in places.tolist()]
    return inside and all(solid.distance(point) >= FROM_OBJECTS for point in points for solid in solids[1:])
