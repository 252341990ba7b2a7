"""Procedural rooms: boxes, spheres and panels in a room, covered with photographs, filmed by a moving camera."""

from novelview.scenes.procedural.generate import generate
from novelview.scenes.procedural.layout import Room, room_for
from novelview.scenes.procedural.rendering import overlap, render_depth, render_frames

__all__ = ["Room", "generate", "overlap", "render_depth", "render_frames", "room_for"]
