"""Cameras: intrinsics, Plücker rays, pose encodings, paths, alignment."""
