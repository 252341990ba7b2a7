"""Warping and plane-sweep cost volume of DepthSplat against the reference."""

from pathlib import Path
from typing import Any

import torch
from depthsplat_fixture import GRADIENT_RTOL, near, tensors

from novelview.models.depthsplat.cost import coarse_candidates, cost_volume, warp
from novelview.models.depthsplat.neighbours import other_views
from novelview.models.depthsplat.predictor import in_pixels


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
    features = given["features"].requires_grad_()
    views = features.shape[1]
    others = other_views(given["extrinsics_c2w"], local=views)
    candidates = given["inverse_depth_candidates"][None, :, None, None]
    cost = cost_volume(features, given["intrinsics_feature_px"], given["extrinsics_c2w"], candidates, others)
    near("cost_volume", cost, given["cost_volume"])
    seen = torch.zeros_like(features)
    parts = given["grad_tgt_features"].unflatten(0, (-1, others.shape[-1])).unflatten(0, features.shape[:2])
    for view in range(views):
        for number, other in enumerate(others[0, view].tolist()):
            seen[:, other] += parts[:, view, number]
    (gradient,) = torch.autograd.grad((cost * given["cotangent"]).sum(), features)
    near("gradient of the features", gradient, seen + _reference_part(given, others), rtol=GRADIENT_RTOL)


def _reference_part(given: dict[str, torch.Tensor], others: torch.Tensor) -> torch.Tensor:
    """Return the gradient through the reference features: cotangent times warped features, averaged."""
    warped = given["warped"].unflatten(0, (-1, others.shape[-1])).mean(dim=1)
    own = torch.einsum("ndhw,ncdhw->nchw", given["cotangent"], warped) / warped.shape[1] ** 0.5
    return own.unflatten(0, others.shape[:2])
