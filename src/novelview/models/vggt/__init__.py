"""VGGT: cameras, depth and point maps of pictures without poses, in one pass (specs/vggt.md; arXiv 2503.11651)."""
