"""Augmentations of a sample, the same for all its views (demo_budget.md section 5); none is on as published."""

import random
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from novelview.config.schema import AugmentConfig
from novelview.scenes.frames import Sample


def augment(sample: Sample, cfg: AugmentConfig, contexts: int, rng: random.Random) -> Sample:
    """Apply the augmentations switched on in `cfg`; `rng` is asked only for those, so others leave no trace."""
    if cfg.mirror and rng.random() < 0.5:
        sample = mirror(sample)
    if cfg.channels:
        sample = replace(sample, images=sample.images[:, rng.sample(range(3), 3)])
    if cfg.swap_context and rng.random() < 0.5:
        count = len(sample.images)
        sample = sample.take([*reversed(range(contexts)), *range(contexts, count)])
    return sample


def mirror(sample: Sample) -> Sample:
    """Return the sample as seen in a mirror: images flipped left to right, the world reflected in x.

    A camera stays a rotation: c2w -> M c2w M with M = diag(-1, 1, 1, 1), cx -> width - cx; a point p -> M p.
    """
    intrinsics = sample.intrinsics.clone()
    intrinsics[:, 2] = sample.images.shape[-1] - intrinsics[:, 2]
    images, c2w = sample.images.flip(-1), mirror_poses(sample.c2w)
    points = None if sample.points is None else sample.points.flip(-1) * torch.tensor([-1.0, 1, 1])[:, None, None]
    return replace(sample, images=images, c2w=c2w, intrinsics=intrinsics, points=points)


def mirror_poses(c2w: Float[Tensor, "v 4 4"]) -> Float[Tensor, "v 4 4"]:
    """Reflect cameras in the world's x = 0 plane, keeping them right-handed."""
    flip = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))
    return flip @ c2w @ flip
