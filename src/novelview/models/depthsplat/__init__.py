"""DepthSplat: depth from matching and monocular features, a Gaussian a pixel (arXiv 2410.13862; specs/depthsplat)."""
