"""The rasterizer in PyTorch alone: front-to-back blending of ellipses over tiles, with its gradient.

specs/rasterizer.md section 1, steps 7 to 10. The search for (pixel, Gaussian) pairs keeps no history: a pass over the
tiles takes the next Gaussians of every list until all pixels of a tile have stopped; what lies behind is not even
listed. The gradient revisits only what the pass has met, last round first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from novelview.splatting.project import (
    MIN_ALPHA,
    TILE,
    Bounds,
    Camera,
    Settings,
    TileLists,
    list_tiles,
    project,
    slabs,
    stack_bounds,
    tile_bounds,
    tile_counts,
    tile_origins,
)

Drawn = tuple[Float[Tensor, "m 6"], Float[Tensor, "m 5"], Bounds]  # shapes, features, tiles of one image
STOP = 1e-4  # transmittance at which a pixel takes nothing more
AHEAD = 32  # Gaussians of a list a round
PAIRS = 2**19  # of (pixel, Gaussian) pairs evaluated at a time: bounds the memory
GPU_PAIRS = 2**24  # the same on a GPU, which needs many at a time to be busy


@dataclass(frozen=True)
class Frame:
    """What a pass needs beside tensors with gradients: the tiles each ellipse can touch, and the images.

    images: how many images of the size of `settings` lie one below the other (`stack_bounds`)."""

    bounds: Bounds
    settings: Settings
    images: int = 1


@dataclass(frozen=True)
class Round:
    """Some tiles' next Gaussians: `members` index the ellipses, where `len(ellipses)` fills up short lists."""

    tiles: Int[Tensor, " t"]
    members: Int[Tensor, "t k"]
    before: Float[Tensor, "t p"]  # transmittance of the tiles' pixels before the round


def blend(shapes: Float[Tensor, "m 6"], features: Float[Tensor, "m f"], frame: Frame) -> Float[Tensor, "i h w f"]:
    """Return the sum of weight * features at every pixel of every image.

    shapes are u v a b c opacity in pixels of their own image, nearest first within an image."""
    tiles = _Blend.apply(shapes, features, frame)
    columns, rows = tile_counts(frame.settings)
    assert isinstance(tiles, Tensor)
    images = tiles.view(frame.images, rows, columns, TILE, TILE, -1).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return images[:, : frame.settings.height, : frame.settings.width]


class _Blend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shapes: Tensor, features: Tensor, frame: Frame) -> Float[Tensor, "t p f"]:
        padded, values = _padded(shapes), _padded(features)
        columns, rows = tile_counts(frame.settings)
        image = features.new_zeros(frame.images * columns * rows, TILE * TILE, features.shape[1])
        light = features.new_ones(image.shape[:2])
        ctx.rounds = []
        for slab in () if image.is_meta else slabs(frame.bounds):  # which tiles there are depends on values
            alive = (light > STOP).any(dim=-1)
            if not bool(alive.any()):
                break
            lists = list_tiles(frame.bounds, slab, alive, columns)
            # Groups that a round evaluates at once, longest lists first.
            order = torch.argsort(lists.counts, descending=True, stable=True)
            at_once = PAIRS if order.device.type == "cpu" else GPU_PAIRS
            for group in order.split(max(1, at_once // (AHEAD * TILE * TILE))):
                ctx.rounds += _march(lists, group, padded, values, image, light, frame)
        ctx.frame = frame
        ctx.save_for_backward(shapes, features)
        return image

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:  # type: ignore[override]
        shapes, features = ctx.saved_tensors
        padded, values = _padded(shapes), _padded(features)
        to_shapes, to_features = torch.zeros_like(padded), torch.zeros_like(values)
        behind = gradient.new_zeros(gradient.shape[:2])
        for step in reversed(ctx.rounds):
            _gradient(step, padded, values, gradient, behind, ctx.frame, to_shapes, to_features)
        return to_shapes[:-1], to_features[:-1], None


def _padded(values: Tensor) -> Tensor:
    """Append a row of zeros: an ellipse of no opacity."""
    return torch.cat([values, values.new_zeros(1, values.shape[1])])


def _march(
    lists: TileLists, group: Tensor, shapes: Tensor, features: Tensor, image: Tensor, light: Tensor, frame: Frame
) -> list[Round]:
    """Add a group of tiles to the image and take what they keep from the light; return the rounds it took."""
    rounds, offset = [], 0
    ahead = torch.arange(AHEAD, device=shapes.device)
    while len(group):
        place = lists.starts[group, None] + offset + ahead
        within = offset + ahead < lists.counts[group, None]
        members = torch.where(within, lists.members[torch.clamp(place, max=len(lists.members) - 1)], len(shapes) - 1)
        step = Round(lists.tiles[group], members, light[lists.tiles[group]])
        rounds.append(step)
        weights, after = _weights(_alphas(step, shapes, frame)[0], step.before)
        image[step.tiles] += weights.flatten(1, 2) @ features[members]
        light[step.tiles] = after
        offset += AHEAD
        group = group[(lists.counts[group] > offset) & (after > STOP).any(dim=-1)]
    return rounds


def _alphas(step: Round, shapes: Tensor, frame: Frame) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return alpha [t y x k], dx [t x k], dy [t y k], where alpha is clamped [t y x k], and the shapes [t k 6]."""
    left, top = tile_origins(step.tiles, frame.settings)
    pixel = torch.arange(TILE, device=shapes.device) + 0.5
    picked = shapes[step.members]
    u, v, a, b, c, opacity = (value[:, None, :] for value in picked.unbind(-1))
    dx = left[:, None, None] + pixel[:, None] - u
    dy = top[:, None, None] + pixel[:, None] - v
    sigma = (0.5 * a * dx * dx)[:, None] + (0.5 * c * dy * dy)[:, :, None]
    sigma.addcmul_((b * dy)[:, :, None], dx[:, None])
    negative = sigma < 0
    alpha = sigma.neg_().exp_().mul_(opacity[:, None])
    alpha.masked_fill_(negative | (alpha < MIN_ALPHA), 0)
    clamped = alpha > frame.settings.alpha_max
    return alpha.clamp_(max=frame.settings.alpha_max), dx, dy, clamped, picked


def _weights(alpha: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    """Return alpha times the light that arrives, 0 once a pixel has stopped, and the light that is left [t p]."""
    left = torch.cumprod(1 - alpha.flatten(1, 2), dim=-1).mul_(before[..., None])
    arriving = torch.cat([before[..., None], left[..., :-1]], dim=-1)
    weights = arriving.masked_fill_(left <= STOP, 0).view_as(alpha) * alpha
    return weights, left[..., -1]


def _gradient(
    step: Round,
    shapes: Tensor,
    features: Tensor,
    gradient: Tensor,
    behind: Tensor,
    frame: Frame,
    to_shapes: Tensor,
    to_features: Tensor,
) -> None:
    """Add a round's part to the gradients; `behind` holds each pixel's sum over the later rounds of weight * value."""
    alpha, dx, dy, clamped, picked = _alphas(step, shapes, frame)
    weights = _weights(alpha, step.before)[0].flatten(1, 2)
    incoming = gradient[step.tiles]
    value = incoming @ features[step.members].mT
    to_features.index_add_(0, step.members.flatten(), (weights.mT @ incoming).flatten(0, 1))
    seen = weights * value
    ahead = seen.cumsum(dim=-1)
    later = behind[step.tiles][..., None] + ahead[..., -1:] - ahead
    behind[step.tiles] += ahead[..., -1]
    flat = alpha.flatten(1, 2)
    # dL/dalpha * alpha = weight * value - alpha / (1 - alpha) * sum over later Gaussians of weight * value
    slope = seen - flat / (1 - flat) * later * (weights > 0)
    slope = slope.view_as(alpha).masked_fill_(clamped, 0)
    to_shapes.index_add_(0, step.members.flatten(), _to_shapes(slope, dx, dy, picked).flatten(0, 1))


def _to_shapes(slope: Tensor, dx: Tensor, dy: Tensor, picked: Tensor) -> Float[Tensor, "t k 6"]:
    """Reduce dL/dlog(alpha) over a tile's pixels to the gradient of u v a b c opacity."""
    _, _, a, b, c, opacity = picked.unbind(-1)
    down, across = slope.sum(dim=1), slope.sum(dim=2)
    mixed = (slope * dy[:, :, None]).sum(dim=1)
    x, y = (down * dx).sum(dim=1), (across * dy).sum(dim=1)
    xx, yy, xy = (down * dx * dx).sum(dim=1), (across * dy * dy).sum(dim=1), (mixed * dx).sum(dim=1)
    total = down.sum(dim=1) / torch.where(opacity > 0, opacity, 1)
    return torch.stack([a * x + b * y, c * y + b * x, -0.5 * xx, -xy, -0.5 * yy, total], dim=-1)


def blend_scenes(scenes: Sequence[Mapping[str, Tensor]], settings: Settings) -> list[Float[Tensor, "c h w 5"]]:
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
