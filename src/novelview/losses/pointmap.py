"""PM-Loss: the means of predicted Gaussians held to a teacher's pointmap (specs/pmloss.md sections 1 and 2).

Usable alone: two tensors in, a loss out; nothing of the package is needed beside the alignment."""

import warnings
from importlib.util import find_spec

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from novelview.cameras.align import umeyama
from novelview.devices import full_precision
from novelview.errors import DataError

LARGE_FACTOR = 1e-5  # what a loss above `ignore_large` is multiplied by
LARGEST = 1e15  # coordinates from here on leave the range of float32 when squared and summed
TEACHER_PATCH = 14
PAIRS = 2**27  # of distances held at a time on an accelerator: 512 MiB in float32


def pointmap_loss(
    predicted: Float[Tensor, "b n 3"],
    pointmap: Float[Tensor, "b n 3"],
    ignore_large: float = 100.0,
    detach_alignment: bool = False,
) -> Float[Tensor, " b"]:
    """Return the mean squared distance from the predicted points to the nearest points of the aligned pointmap.

    Both: world coordinates of corresponding pixels, any units each; the pointmap is brought onto the prediction by the
    similarity that fits all pairs (result: the prediction's units, squared). Gradients reach `predicted` through the
    alignment, too, unless `detach_alignment`. A loss above `ignore_large` counts 1e-5 of it. A scene with a coordinate
    that is NaN or not below 1e15 has loss 0, no gradient, and a RuntimeWarning. DataError is for unpaired clouds."""
    if predicted.shape != pointmap.shape or predicted.dim() != 3 or 0 in predicted.shape or predicted.shape[-1] != 3:
        got = f"{tuple(predicted.shape)} and {tuple(pointmap.shape)}"
        raise DataError(f"PM-Loss needs a pointmap of the predicted points' shape [b, n, 3], got {got}")
    with full_precision(predicted):
        dtype = torch.promote_types(predicted.dtype, torch.float32)
        predicted, pointmap = predicted.to(dtype), pointmap.to(dtype)
        # scenes whose coordinates are numbers that can be squared and summed; comparisons with NaN are false
        sound = ((predicted.detach().abs() < LARGEST) & (pointmap.detach().abs() < LARGEST)).flatten(1).all(dim=1)
        # A loss of 0 must not be taken for a perfect fit. A GPU is not waited for: what is loaded is looked at there.
        if broken := int((~sound).sum()) if sound.device.type == "cpu" else 0:
            text = f"PM-Loss: {broken} of {len(sound)} scenes count 0, a coordinate of theirs is NaN or not below 1e15"
            warnings.warn(text, RuntimeWarning, stacklevel=2)
        predicted, pointmap = (torch.where(sound[:, None, None], points, 0) for points in (predicted, pointmap))
        fitted = umeyama(pointmap, predicted.detach() if detach_alignment else predicted, sound=True)
        points = fitted.points(pointmap)
        with torch.no_grad():
            index = torch.stack([nearest(one, two) for one, two in zip(predicted, points, strict=True)])
        found = points.gather(1, index[..., None].expand(-1, -1, 3))
        loss = torch.where(sound, (predicted - found).square().sum(dim=-1).mean(dim=-1), 0)
    return torch.where(loss > ignore_large, LARGE_FACTOR * loss, loss)


def nearest(queries: Float[Tensor, "n 3"], points: Float[Tensor, "m 3"]) -> Int[Tensor, " n"]:
    """Return the index of the point nearest to every query: by SciPy's k-d tree on a CPU that has it, by force else."""
    if queries.device.type == "cpu" and find_spec("scipy"):
        from scipy.spatial import KDTree

        _, index = KDTree(points.detach().numpy()).query(queries.detach().numpy(), workers=torch.get_num_threads())
        return torch.from_numpy(index)
    return nearest_brute_force(queries, points)


@torch.no_grad()
def nearest_brute_force(
    queries: Float[Tensor, "n 3"], points: Float[Tensor, "m 3"], pairs: int = PAIRS
) -> Int[Tensor, " n"]:
    """Return the same from all distances, at most `pairs` (or one query's) at a time."""
    # without the shortcut over a matrix product, which loses the digits that decide between neighbours
    parts = queries.split(max(1, pairs // len(points)))
    distances = (torch.cdist(part, points, compute_mode="donot_use_mm_for_euclid_dist") for part in parts)
    return torch.cat([found.argmin(dim=1) for found in distances])


class PointmapLoss(nn.Module):
    """PM-Loss as a training term: weight * mean over the batch, 0 before step `apply_after`; see `pointmap_loss`."""

    def __init__(
        self, weight: float = 0.005, apply_after: int = 0, ignore_large: float = 100.0, detach_alignment: bool = False
    ) -> None:
        super().__init__()
        self.weight, self.apply_after, self.options = weight, apply_after, (ignore_large, detach_alignment)

    def forward(
        self, predicted: Float[Tensor, "b n 3"], pointmap: Float[Tensor, "b n 3"], step: int = 0
    ) -> Float[Tensor, ""]:
        """Return the weighted loss at a training step."""
        if step < self.apply_after:
            return predicted.new_zeros(())
        return self.weight * pointmap_loss(predicted, pointmap, *self.options).mean()


def teacher_images(images: Float[Tensor, "b v 3 h w"]) -> Float[Tensor, "b v 3 th tw"]:
    """Resize images in [0,1] down to multiples of the teacher's 14-pixel patch, bilinear without antialiasing."""
    size = tuple(side // TEACHER_PATCH * TEACHER_PATCH for side in images.shape[-2:])
    if size == tuple(images.shape[-2:]):
        return images
    flat = functional.interpolate(images.flatten(0, 1), size, mode="bilinear", align_corners=False)
    return flat.unflatten(0, images.shape[:2])


def flat_pointmap(points: Float[Tensor, "b v th tw 3"], height: int, width: int) -> Float[Tensor, "b n 3"]:
    """Bring a pointmap to height x width pixels by nearest neighbours; n is view-major, then row-major pixels."""
    flat = points.flatten(0, 1).permute(0, 3, 1, 2)
    if flat.shape[-2:] != (height, width):
        flat = functional.interpolate(flat, (height, width), mode="nearest")
    return flat.permute(0, 2, 3, 1).reshape(len(points), -1, 3)
