"""The rasterizer in PyTorch alone, on any device."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from novelview.splatting.blend import Frame, blend
from novelview.splatting.project import Camera, project
from novelview.splatting.settings import Settings
from novelview.splatting.tiles import Bounds, stack_bounds, tile_bounds

Drawn = tuple[Float[Tensor, "m 6"], Float[Tensor, "m 5"], Bounds]


def render_scenes(scenes: Sequence[Mapping[str, Tensor]], settings: Settings) -> list[Float[Tensor, "c h w 5"]]:
    """Return red, green, blue, depth and alpha of every camera of every scene, without background.

    A scene: means [n 3], covariances [n 3 3], opacities [n], colors [c n 3], viewmats [c 4 4], Ks [c 3 3]. On a GPU the
    images of all of them are blended in one pass, which keeps it busy; on a CPU each on its own, which fits its cache.
    """
    drawn = [_drawn(scene, camera, settings) for scene in scenes for camera in range(len(scene["viewmats"]))]
    at_once = 1 if drawn[0][0].device.type == "cpu" else len(drawn)
    images = torch.cat([_blended(drawn[start : start + at_once], settings) for start in range(0, len(drawn), at_once)])
    return list(images.split([len(scene["viewmats"]) for scene in scenes]))


def _drawn(scene: Mapping[str, Tensor], camera: int, settings: Settings) -> Drawn:
    """Return the ellipses of one image, front to back: shapes, features, and the tiles they can touch."""
    view = Camera(scene["viewmats"][camera], scene["Ks"][camera])
    ellipses = project(scene["means"], scene["covariances"], view, settings)
    picked = scene["opacities"][ellipses.index]
    shapes = torch.cat([ellipses.means, ellipses.conics, picked[:, None]], dim=-1)
    depths = ellipses.depths[:, None]
    features = torch.cat([scene["colors"][camera][ellipses.index], depths, torch.ones_like(depths)], dim=-1)
    return shapes, features, tile_bounds(ellipses, picked, settings)


def _blended(drawn: Sequence[Drawn], settings: Settings) -> Float[Tensor, "i h w 5"]:
    shapes, features, bounds = zip(*drawn, strict=True)
    frame = Frame(stack_bounds(bounds, settings), settings, len(drawn))
    return blend(torch.cat(shapes), torch.cat(features), frame)
