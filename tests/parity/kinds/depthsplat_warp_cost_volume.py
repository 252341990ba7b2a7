"""Warping and plane-sweep cost volume of DepthSplat against the reference."""

from pathlib import Path
from typing import Any

import torch
from depthsplat_fixture import GRADIENT_RTOL, near, tensors
from torch import Tensor

from novelview.models.depthsplat.depth import coarse_candidates, cost_volume, in_pixels, warp


def check_candidates(folder: Path, config: dict[str, Any]) -> None:
    theirs = tensors(folder)["inverse_depth_candidates"]
    ours = coarse_candidates(config["near"], config["far"], config["D"], theirs)
    near("inverse_depth_candidates", ours.flatten(), theirs)


def check_warp(folder: Path, config: dict[str, Any]) -> None:
    given = tensors(folder)
    target = given["tgt_features"].flatten(0, 1)
    lens = given["intrinsics_feature_px"].flatten(0, 1).repeat_interleave(given["tgt_features"].shape[1], 0)
    depth = 1 / given["inverse_depth_candidates"]
    depth = depth[None, :, None, None].expand(len(target), -1, *target.shape[-2:])
    near("warped", warp(target, lens, given["relative_pose_ref_to_tgt"].flatten(0, 1), depth), given["warped"])


def check_intrinsics(folder: Path, config: dict[str, Any]) -> None:
    given, factor = tensors(folder), config["downsample_factor"]
    size = [factor * side for side in given["features"].shape[-2:]]
    ours = in_pixels(given["intrinsics_norm"], size, factor)
    near("intrinsics_feature_px", ours, given["intrinsics_feature_px"])


def check_cost_and_gradient(folder: Path, config: dict[str, Any]) -> None:
    """The gradient is recorded by warped feature: each view's is the sum over the views it was warped to."""
    given = tensors(folder)
    features, others = given["features"].requires_grad_(), _others(given)
    candidates = given["inverse_depth_candidates"][None, :, None, None]
    cost = cost_volume(features, given["intrinsics_feature_px"], given["extrinsics_c2w"], candidates, others)
    near("cost_volume", cost, given["cost_volume"])
    seen = torch.zeros_like(features)
    parts = given["grad_tgt_features"].view(*others.shape, *features.shape[2:])
    rows = torch.arange(len(features))[:, None, None].expand_as(others)
    seen.index_put_((rows, others), parts, accumulate=True)
    (gradient,) = torch.autograd.grad((cost * given["cotangent"]).sum(), features)
    near("gradient of the features", gradient, seen + _reference_part(given, others), rtol=GRADIENT_RTOL)


def _others(given: dict[str, Tensor]) -> Tensor:
    """Return which views were warped to each, [b v m], as the recorded features tell."""
    features = given["features"].detach()
    targets = given["tgt_features"].view(*features.shape[:2], -1, *features.shape[2:])
    same = (targets[:, :, :, None] == features[:, None, None]).flatten(4).all(dim=-1)
    assert (same.sum(dim=-1) == 1).all()
    return same.int().argmax(dim=-1)


def _reference_part(given: dict[str, Tensor], others: Tensor) -> Tensor:
    """Return the gradient through the reference features: cotangent times warped features, averaged."""
    warped = given["warped"].unflatten(0, (-1, others.shape[-1])).mean(dim=1)
    own = torch.einsum("ndhw,ncdhw->nchw", given["cotangent"], warped) / warped.shape[1] ** 0.5
    return own.unflatten(0, others.shape[:2])
