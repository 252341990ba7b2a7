"""Speed and memory of the rasterizer, forward and backward: `python bench/rasterizer.py [--gsplat FOLDER]`.

Every row is a process of its own. `processor_s` are the seconds all its threads spent (what a busy machine does not
change), `peak_mib` the process's peak resident memory, PyTorch and all, of which `idle_mib` were there before the
first image. --gsplat names the folder into which gsplat 1.5.3 was installed (`pip install --target`); its PyTorch
path (bench/gsplat_torch.py) is then measured beside ours. Scenes: `pixels` has a Gaussian a pixel of two views, as
feed-forward models predict them; `cloud` fills the view's volume; both of SH degree 2."""

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import torch
from torch import Tensor

SIZES = [(8192, 64), (32768, 128), (131072, 256)]  # Gaussians, pixels a side
SLOW = 8192  # Gaussians above which gsplat's Python loop over them is not measured


def make_scene(kind: str, count: int, seed: int = 0) -> dict[str, Tensor]:
    """Return Gaussians in front of a camera at the origin that sees 53 degrees."""
    generator = torch.Generator().manual_seed(seed)
    side = int((count / 2) ** 0.5)
    if kind == "pixels":
        grid = (torch.arange(side) + 0.5) / side - 0.5
        y, x = torch.meshgrid(grid, grid, indexing="ij")
        depth = 3 + torch.sin(5 * x) + torch.cos(4 * y) + 0.05 * torch.randn(2, side, side, generator=generator)
        means = torch.stack([x * depth, y * depth, depth], dim=-1).flatten(0, 2)
        size = means[:, 2:] / side
    else:
        depth = 1 + 9 * torch.rand(count, 1, generator=generator)
        across = (torch.rand(count, 2, generator=generator) - 0.5) * 1.2 * depth
        means, size = torch.cat([across, depth], dim=1), torch.full((count, 1), 0.02)
    count = len(means)
    return {
        "means": means,
        "opacities": torch.rand(count, generator=generator),
        "quats": torch.randn(count, 4, generator=generator),
        "scales": size * (0.25 + 1.5 * torch.rand(count, 3, generator=generator)),
        "sh": 0.3 * torch.randn(count, 9, 3, generator=generator),
    }


def render(backend: str, scene: dict[str, Tensor], side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return colour, depth and alpha of one image of side x side pixels."""
    K = torch.tensor([[side, 0, side / 2], [0, side, side / 2], [0, 0, 1]])
    if backend == "gsplat_torch":
        import gsplat_torch

        color, alpha = gsplat_torch.render(scene, torch.eye(4), K, side, side)
        return color[..., :3].permute(2, 0, 1), color[..., 3], alpha[..., 0]
    from novelview.splatting.rasterize import rasterize

    splat = rasterize(
        viewmats=torch.eye(4)[None], Ks=K[None], width=side, height=side, alpha_max=0.999, backend="torch", **scene
    )
    return splat.color[0], splat.depth[0], splat.alpha[0]


def measure(backend: str, kind: str, count: int, side: int, threads: int, repeats: int) -> dict[str, Any]:
    """Return a row of the table from this process: the fastest of some repeats after one to warm up."""
    torch.set_num_threads(threads)
    scene = {name: value.requires_grad_() for name, value in make_scene(kind, count).items()}
    idle = _peak_mib()
    times = [_time(backend, scene, side) for _ in range(repeats + 1)][1:]
    forward, backward, wall = min(times, key=lambda each: each[0] + each[1])
    pairs = len(scene["means"]) * side * side
    return {
        "backend": backend,
        "scene": kind,
        "gaussians": len(scene["means"]),
        "height": side,
        "width": side,
        "threads": threads,
        "forward_processor_s": round(forward, 3),
        "backward_processor_s": round(backward, 3),
        "wall_s": round(wall, 3),
        "pixel_gaussians_per_processor_s": f"{pairs / (forward + backward):.3g}",
        "idle_mib": idle,
        "peak_mib": _peak_mib(),
        "mean_difference_to_torch": f"{_difference(backend, scene, side):.1e}",
    }


def _time(backend: str, scene: dict[str, Tensor], side: int) -> tuple[float, float, float]:
    wall, begin = time.perf_counter(), time.process_time()
    images = render(backend, scene, side)
    middle = time.process_time()
    loss = images[0].square().sum() + images[1].sum() + images[2].sum()
    torch.autograd.grad(loss, list(scene.values()))
    return middle - begin, time.process_time() - middle, time.perf_counter() - wall


def _difference(backend: str, scene: dict[str, Tensor], side: int) -> float:
    if backend == "torch":
        return 0.0
    with torch.no_grad():
        ours, theirs = render("torch", scene, side)[0], render(backend, scene, side)[0]
    return (ours - theirs).abs().mean().item()


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _row(gsplat: str, *arguments: object) -> dict[str, Any]:
    command = [sys.executable, __file__, "--row", json.dumps(arguments)] + (["--gsplat", gsplat] if gsplat else [])
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return json.loads(output.splitlines()[-1])


def main() -> None:
    """Measure every size on 1 and 2 threads, append and print the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gsplat", default="", help="folder that holds gsplat 1.5.3 and what it imports")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--row", help=argparse.SUPPRESS)
    given = parser.parse_args()
    sys.path.append(given.gsplat or ".")
    if given.row:
        print(json.dumps(measure(*json.loads(given.row))))
        return
    from common import append

    cases = [
        (backend, kind, count, side, threads, given.repeats)
        for backend in ("torch", *(["gsplat_torch"] if given.gsplat else []))
        for kind in ("pixels", "cloud")
        for count, side in SIZES
        if backend == "torch" or count <= SLOW
        for threads in given.threads
    ]
    append("rasterizer", [_row(given.gsplat, *case) for case in cases])


if __name__ == "__main__":
    main()
