"""Scenes of other formats to chunks: photographs, transforms.json, COLMAP models, opencv_cameras.json."""
