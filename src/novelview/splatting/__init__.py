"""Gaussian splatting: one differentiable rasterizer interface, its backends, DepthSplat's decoder, PLY export."""
