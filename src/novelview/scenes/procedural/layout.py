"""What a room is made of, and how one is drawn at random.

World axes are OpenCV's: x right, y down, z forward, in metres; the room's box is centred on the origin.
"""

import math
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from novelview.config.sources import RoomsSource
from novelview.errors import ConfigError
from novelview.scenes.procedural.motion import camera_path, clearance_ok, lens
from novelview.scenes.procedural.photographs import GREY, photographs, pool
from novelview.scenes.procedural.seeds import SPLITS, Draws, room_seed, scene_key
from novelview.scenes.procedural.solids import Face, Solid

ATTEMPTS = 100  # camera paths tried before the configuration is called impossible


@dataclass(frozen=True)
class Room:
    """One room with its clip's cameras; `solids[0]` is the room itself, seen from inside.

    light: position of the lamp in metres; ambient: share of the light that comes from everywhere, in [0,1].
    c2w: float64 [n 4 4] camera-to-world; intrinsics: float64 [4], normalised fx/W fy/H cx/W cy/H of every frame.
    """

    split: str
    number: int
    key: str
    photographs: tuple[str, ...]
    solids: tuple[Solid, ...]
    light: tuple[float, float, float]
    ambient: float
    c2w: Float[Tensor, "n 4 4"]
    intrinsics: Float[Tensor, " 4"]

    @property
    def url(self) -> str:
        """Return the address stored in the chunk; it names the room completely given the source's configuration."""
        return f"novelview://rooms/{self.split}/{self.number}"


def room_for(source: RoomsSource, split: str, number: int) -> Room:
    """Draw room `number` (from 0) of a split: "train", "seen" (training photographs) or "new" (held-out ones).

    Raises ConfigError for an unknown split, and when no camera path of the configured length fits the room.
    """
    if split not in SPLITS:
        raise ConfigError(f"rooms have no split '{split}'; choose one of {', '.join(SPLITS)}")
    draws = Draws(room_seed(source.seed, split, number))
    names = pool(split, source.patterns)
    intrinsics = lens(draws.uniform(*source.fov), source.height, source.width)
    half = (draws.uniform(2.3, 3.8), draws.uniform(1.3, 1.65), draws.uniform(2.3, 3.8))
    shell = Solid((0.0, 0.0, 0.0), 0.0, half, False, _faces(draws, source, names, same=False))
    count = draws.integer(*source.objects)
    light = (0.6 * draws.uniform(-1, 1) * half[0], -0.85 * half[1], 0.6 * draws.uniform(-1, 1) * half[2])
    ambient = draws.uniform(0.45, 0.65)
    for _ in range(ATTEMPTS):
        solids = [shell, *(_object(draws, source, names, half) for _ in range(count))]
        c2w = camera_path(draws, source, half)
        if clearance_ok(c2w[:, :3, 3], solids):
            key = scene_key(source.seed, split, number)
            return Room(split, number, key, names, tuple(solids), light, ambient, c2w, intrinsics)
    raise ConfigError(
        f"source.dolly={source.dolly}, source.objects={source.objects}: no free camera path in room {split}/{number} "
        f"after {ATTEMPTS} tries; lower one of them"
    )


def _faces(draws: Draws, source: RoomsSource, names: tuple[str, ...], same: bool) -> tuple[Face, ...]:
    """Draw six faces: each its own photograph and tint, or one for all (`same`), always at its own offset."""
    faces = [_face(draws, source, names) for _ in range(6)]
    if not same:
        return tuple(faces)
    first = faces[0]
    return tuple(Face(first.texture, first.density, face.offset, first.gain) for face in faces)


def _face(draws: Draws, source: RoomsSource, names: tuple[str, ...]) -> Face:
    real = photographs(names)
    made_up = real < len(names) and draws.uniform(0, 1) < 0.5  # not drawn without patterns: such rooms stay the same
    texture = draws.integer(real, len(names) - 1) if made_up else draws.integer(0, real - 1)
    density = draws.uniform(*source.texture_density)
    offset = (draws.uniform(0, 2), draws.uniform(0, 2))
    low, high = (0.6, 1.15) if names[texture] in GREY else (0.85, 1.1)
    gain = (draws.uniform(low, high), draws.uniform(low, high), draws.uniform(low, high))
    return Face(texture, density, offset, gain)


def _object(draws: Draws, source: RoomsSource, names: tuple[str, ...], room: tuple[float, float, float]) -> Solid:
    """Draw a box on the floor, a sphere, a partition or a picture on a wall; it may touch others, never leave."""
    faces = _faces(draws, source, names, same=True)
    kind = draws.integer(0, 4)
    if kind == 0:
        return _picture(draws, faces, room)
    if kind == 1:
        radius = draws.uniform(0.25, 0.5)
        height = draws.uniform(-0.3 * room[1], room[1] - radius)
        return Solid(_spot(draws, room, radius, height), 0.0, (radius, radius, radius), True, faces)
    thin = kind == 2
    half_x, half_z = draws.uniform(0.3, 0.65), draws.uniform(0.3, 0.65)
    half_y = draws.uniform(0.7, 1.1) if thin else draws.uniform(0.25, 0.65)
    half = (half_x, half_y, 0.04 if thin else half_z)
    place = _spot(draws, room, math.hypot(half[0], half[2]), room[1] - half_y)
    return Solid(place, draws.uniform(-math.pi / 2, math.pi / 2), half, False, faces)


def _spot(draws: Draws, room: tuple[float, float, float], reach: float, height: float) -> tuple[float, float, float]:
    x, z = room[0] - reach, room[2] - reach
    return draws.uniform(-x, x), height, draws.uniform(-z, z)


def _picture(draws: Draws, faces: tuple[Face, ...], room: tuple[float, float, float]) -> Solid:
    """A flat box against one of the four walls."""
    wide, tall, thick = draws.uniform(0.4, 0.9), draws.uniform(0.3, 0.6), 0.03
    along_x, side = draws.integer(0, 1) == 1, draws.sign()
    wall, run = (room[2], room[0]) if along_x else (room[0], room[2])
    away, along = side * (wall - thick), draws.uniform(-(run - wide), run - wide)
    height = draws.uniform(-0.35, 0.1) * room[1]
    if along_x:
        return Solid((along, height, away), 0.0, (wide, tall, thick), False, faces)
    return Solid((away, height, along), 0.0, (thick, tall, wide), False, faces)
