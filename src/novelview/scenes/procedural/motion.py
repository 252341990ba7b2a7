"""Camera motion of a clip, after real-estate videos: a dolly of about a metre while the camera pans."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from novelview.config.sources import RoomsSource
from novelview.scenes.procedural.seeds import Draws
from novelview.scenes.procedural.solids import Solid

FROM_WALLS = 0.5  # metres the camera keeps from every wall
FROM_OBJECTS = 0.45  # and from every object


def lens(fov: float, height: int, width: int) -> Float[Tensor, " 4"]:
    """Return normalised intrinsics of square pixels with the principal point in the centre; `fov` horizontal, degrees.

    float64 [4] = fx/W, fy/H, cx/W, cy/H (specs/re10k_format.md section 1).
    """
    focal = 0.5 / math.tan(math.radians(fov) / 2)
    return torch.tensor([focal, focal * width / height, 0.5, 0.5], dtype=torch.float64)


@dataclass(frozen=True)
class Motion:
    """A clip's motion about its middle: metres, radians; `ease` bends the clock, `bend` the line of travel."""

    middle: tuple[float, float, float]
    heading: float
    turn: float
    course: float
    length: float
    bend: float
    rise: float
    pitch: float
    nod: float
    ease: float

    def pose(self, clock: float) -> list[list[float]]:
        """Return the camera-to-world rows at `clock` in [0,1]."""
        clock += self.ease * math.sin(2 * math.pi * clock) / (2 * math.pi)
        half, across = clock - 0.5, self.bend * math.sin(math.pi * clock)
        along, sine, cosine = half * self.length, math.sin(self.course), math.cos(self.course)
        x = self.middle[0] + along * sine + across * cosine
        z = self.middle[2] + along * cosine - across * sine
        place = (x, self.middle[1] + half * self.rise, z)
        return _pose(self.heading + self.turn * half, self.pitch + self.nod * half, place)


def camera_path(draws: Draws, source: RoomsSource, room: tuple[float, float, float]) -> Float[Tensor, "n 4 4"]:
    """Draw `source.frames` camera-to-world matrices, float64 [n 4 4], for a room of half extents `room` in metres.

    The yaw covers pan + drift, each of random sign, about a heading towards the middle of the room; the camera moves
    along a slightly bent horizontal line. Both follow one smooth monotonic clock.
    """
    motion = _draw_motion(draws, source, room)
    clocks = [frame / (source.frames - 1) for frame in range(source.frames)]
    return torch.tensor([motion.pose(clock) for clock in clocks], dtype=torch.float64)


def _draw_motion(draws: Draws, source: RoomsSource, room: tuple[float, float, float]) -> Motion:
    middle = (draws.uniform(-0.7, 0.7) * room[0], room[1] - draws.uniform(1.2, 1.6), draws.uniform(-0.7, 0.7) * room[2])
    # Looking across the room, to a point on the far side of its middle, brings most objects into view.
    aim = [draws.uniform(-0.3, 0.3) * room[0] - 0.5 * middle[0], draws.uniform(-0.3, 0.3) * room[2] - 0.5 * middle[2]]
    heading = math.atan2(aim[0] - middle[0], aim[1] - middle[2])
    turn = draws.sign() * draws.uniform(*source.pan) + draws.sign() * draws.uniform(*source.drift)
    length, course = draws.uniform(*source.dolly), heading + math.radians(draws.uniform(-75, 75))
    bend, rise = draws.uniform(-0.15, 0.15) * length, draws.uniform(-0.1, 0.1)
    pitch, nod = math.radians(draws.uniform(-14, 2)), math.radians(draws.uniform(-4, 4))
    ease = draws.uniform(-0.3, 0.3)
    return Motion(middle, heading, math.radians(turn), course, length, bend, rise, pitch, nod, ease)


def _pose(yaw: float, pitch: float, place: tuple[float, float, float]) -> list[list[float]]:
    """Return the camera-to-world rows of a camera turned right by `yaw` and up by `pitch`, radians, without roll."""
    cy, sy, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
    return [
        [cy, sy * sp, sy * cp, place[0]],
        [0.0, cp, -sp, place[1]],
        [-sy, cy * sp, cy * cp, place[2]],
        [0.0, 0.0, 0.0, 1.0],
    ]


def clearance_ok(places: Float[Tensor, "n 3"], solids: Sequence[Solid]) -> bool:
    """Tell whether all camera centres, metres, keep clear of the walls of `solids[0]` and of the other solids."""
    room = solids[0].half
    for place in places.tolist():
        if any(abs(value) > half - FROM_WALLS for value, half in zip(place, room, strict=True)):
            return False
        if any(solid.distance(tuple(place)) < FROM_OBJECTS for solid in solids[1:]):
            return False
    return True
