"""Solids of a room: boxes turned about the vertical axis, and spheres."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Face:
    """How one face is covered: texture number, repeats a metre, offset in repeats, RGB gain."""

    texture: int
    density: float
    offset: tuple[float, float]
    gain: tuple[float, float, float]


@dataclass(frozen=True)
class Solid:
    """A box, or a sphere where `round`: centre and half extents in metres, yaw in radians about the y axis.

    faces: six, in the order -x, +x, -y, +y, -z, +z of the solid's own axes; a sphere is covered like a cube map.
    """

    centre: tuple[float, float, float]
    yaw: float
    half: tuple[float, float, float]
    round: bool
    faces: tuple[Face, ...]

    @property
    def turn(self) -> tuple[float, float]:
        """Return cosine and sine of the yaw."""
        return math.cos(self.yaw), math.sin(self.yaw)

    @property
    def radius(self) -> float:
        """Return the radius of the bounding sphere in metres."""
        return self.half[0] if self.round else math.hypot(*self.half)

    def local(self, point: tuple[float, float, float]) -> tuple[float, float, float]:
        """Return a world point in the solid's own axes."""
        x, y, z = (value - centre for value, centre in zip(point, self.centre, strict=True))
        cosine, sine = self.turn
        return cosine * x - sine * z, y, sine * x + cosine * z

    def distance(self, point: tuple[float, float, float]) -> float:
        """Return the distance in metres from a point outside to the surface; 0 inside."""
        local = self.local(point)
        if self.round:
            return max(math.hypot(*local) - self.half[0], 0.0)
        return math.hypot(*(max(abs(value) - half, 0.0) for value, half in zip(local, self.half, strict=True)))
