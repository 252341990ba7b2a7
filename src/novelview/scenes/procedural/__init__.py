"""Procedural rooms: boxes, spheres and panels in a room, covered with photographs, filmed by a moving camera."""
