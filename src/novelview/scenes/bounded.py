"""DepthSplat's training samplers `bounded` and `boundedv2` (specs/depthsplat.md section 11, Data).

Both draw an interval whose length grows with training; `boundedv2` also varies the number of context views.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from novelview.config.schema import ViewsConfig

SAMPLERS = ("bounded", "boundedv2")


@dataclass(frozen=True)
class Moment:
    """When a sample is drawn: the training step (0-based) it belongs to, and its number of context views."""

    step: int
    contexts: int


@dataclass(frozen=True)
class Picked:
    """Frame numbers of the context and the target views of one sample."""

    context: list[int]
    target: list[int]


def contexts_at(number: int, seed: int, cfg: ViewsConfig) -> int:
    """Return how many context views the samples of micro-batch `number` have, the same in all processes."""
    if cfg.sampler != "boundedv2" or not cfg.min_context:
        return cfg.num_context
    return random.Random(f"{seed}/contexts/{number}").randint(cfg.min_context, cfg.num_context)


def gap_range(cfg: ViewsConfig, moment: Moment) -> tuple[int, int]:
    """Return the shortest and the longest interval [frames] at a moment.

    From (start_min_dist, start_max_dist) to (min_frame_dist, max_frame_dist) in `dist_steps` steps, in whole frames;
    with fewer contexts than num_context both are divided by how many times they go into it.
    """
    share = min(1.0, moment.step / cfg.dist_steps) if cfg.dist_steps else 1.0
    starts = (cfg.start_min_dist, cfg.start_max_dist) if cfg.dist_steps else (0, 0)
    ends = (cfg.min_frame_dist, cfg.max_frame_dist)
    low, high = (start + int(share * (end - start)) for start, end in zip(starts, ends, strict=True))
    scale = cfg.num_context // moment.contexts
    return max(1, low // scale), max(1, high // scale)


def fewest_frames(cfg: ViewsConfig) -> int:
    """Return how many frames a scene needs to be drawn from at any moment of the training."""
    longest = max(cfg.min_frame_dist, cfg.start_min_dist if cfg.dist_steps else 0)
    return max(longest + 1, cfg.num_context)


def pick(c2w: Float[Tensor, "n 4 4"], rng: random.Random, cfg: ViewsConfig, moment: Moment) -> Picked | None:
    """Draw the views of one sample from a scene's cameras; None when the scene is too short at this moment.

    bounded: the contexts are the ends of the interval, the targets uniform in it with replacement, ends included.
    boundedv2: more than two contexts are spread over the interval by `farthest_points`, the first and the last found
    standing at the ends and the others sorted between; the targets are distinct, and fewer where it holds fewer.
    """
    low, high = gap_range(cfg, moment)
    high = min(high, len(c2w) - 1)
    if high < low or high + 1 < moment.contexts:
        return None
    gap = rng.randint(max(low, moment.contexts - 1), high)
    left = rng.randint(0, len(c2w) - 1 - gap)
    inside = range(left, left + gap + 1)
    if cfg.sampler == "bounded":
        return Picked([left, left + gap], rng.choices(inside, k=cfg.num_target))
    targets = rng.sample(inside, min(cfg.num_target, len(inside)))
    return Picked(_spread(c2w, inside, moment.contexts), targets)


def _spread(c2w: Float[Tensor, "n 4 4"], inside: range, count: int) -> list[int]:
    if count == 2:
        return [inside[0], inside[-1]]
    first, *others, last = (inside[place] for place in farthest_points(c2w[inside.start : inside.stop, :3, 3], count))
    return [first, *sorted(others), last]


def farthest_points(centres: Float[Tensor, "n 3"], count: int) -> list[int]:
    """Choose `count` of n points: the farthest from their mean, then each time the farthest from all chosen."""
    away = (centres.double() - centres.double().mean(dim=0)).norm(dim=1)
    chosen = [int(away.argmax())]
    apart = torch.full_like(away, torch.inf)
    while len(chosen) < count:
        apart = torch.minimum(apart, (centres.double() - centres[chosen[-1]].double()).norm(dim=1))
        apart[chosen[-1]] = -1.0
        chosen.append(int(apart.argmax()))
    return chosen


def sound(picked: Picked, bad: Sequence[int] | set[int]) -> bool:
    """Tell whether a sample has no damaged frame."""
    return not set(bad).intersection(picked.context, picked.target)
