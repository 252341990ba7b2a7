"""DepthSplat: depth by matching and monocular features, one Gaussian a pixel (arXiv 2410.13862, specs/depthsplat.md)."""
