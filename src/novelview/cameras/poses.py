"""Pose encodings and normalisation of a scene's cameras (specs/uplvsm.md sections 3, 5 and 9)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from novelview.errors import DataError

MAX_CONDITION = 1e4
ROUNDING = 1e-9  # of double precision, with a margin, relative to the largest coordinate


def mat_to_quat(rotation: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 4"]:
    """Return unit quaternions (i, j, k, r), scalar last and not negative, of rotation matrices."""
    m, trace = rotation, rotation.diagonal(dim1=-2, dim2=-1).unbind(-1)
    squared = [1 + trace[0] - trace[1] - trace[2], 1 - trace[0] + trace[1] - trace[2]]
    squared += [1 - trace[0] - trace[1] + trace[2], 1 + trace[0] + trace[1] + trace[2]]
    i2, j2, k2, r2 = squared
    ij, ik, jk = m[..., 1, 0] + m[..., 0, 1], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    ir, jr, kr = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    rows = [[i2, ij, ik, ir], [ij, j2, jk, jr], [ik, jk, k2, kr], [ir, jr, kr, r2]]
    candidates = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    # That of the largest component: nothing is divided by a number near zero.
    largest = torch.stack(squared, dim=-1).argmax(dim=-1)
    chosen = candidates.gather(-2, largest[..., None, None].expand(*largest.shape, 1, 4)).squeeze(-2)
    quaternion = normalize(chosen, dim=-1)
    return torch.where(quaternion[..., 3:] < 0, -quaternion, quaternion)


def quat_to_mat(quaternion: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 3 3"]:
    """Return rotation matrices of quaternions (i, j, k, r) of any length above zero."""
    i, j, k, r = quaternion.unbind(-1)
    s = 2 / quaternion.square().sum(-1)
    rows = [1 - s * (j * j + k * k), s * (i * j - k * r), s * (i * k + j * r)]
    rows += [s * (i * j + k * r), 1 - s * (i * i + k * k), s * (j * k - i * r)]
    rows += [s * (i * k - j * r), s * (j * k + i * r), 1 - s * (i * i + j * j)]
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def c2w_to_encoding(c2w: Float[Tensor, "*b 4 4"]) -> Float[Tensor, "*b 7"]:
    """Return (tx, ty, tz, qi, qj, qk, qr) of camera-to-world matrices."""
    return torch.cat([c2w[..., :3, 3], mat_to_quat(c2w[..., :3, :3])], dim=-1)


def encoding_to_c2w(encoding: Float[Tensor, "*b 7"]) -> Float[Tensor, "*b 4 4"]:
    """Return camera-to-world matrices of (tx, ty, tz, qi, qj, qk, qr); the quaternion need not be normalised."""
    top = torch.cat([quat_to_mat(encoding[..., 3:]), encoding[..., :3, None]], dim=-1)
    bottom = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=top.dtype, device=top.device).expand(*top.shape[:-2], 1, 4)
    return torch.cat([top, bottom], dim=-2)


@dataclass(frozen=True)
class CoordinateFrame:
    """A frame of coordinates: the rigid `motion` [4 4] brings cameras into it, `scale` then multiplies centres."""

    motion: Float[Tensor, "4 4"]
    scale: Float[Tensor, ""]

    def transform(self, c2w: Float[Tensor, "v 4 4"]) -> Float[Tensor, "v 4 4"]:
        moved = self.motion @ c2w.double()
        moved[:, :3, 3] *= self.scale
        return moved.to(c2w.dtype)

    def undo(self, c2w: Float[Tensor, "v 4 4"]) -> Float[Tensor, "v 4 4"]:
        """Return the cameras that `transform` made these of."""
        moved = c2w.double()
        moved[:, :3, 3] /= self.scale
        return (torch.linalg.inv(self.motion) @ moved).to(c2w.dtype)


def mean_frame(c2w: Float[Tensor, "v 4 4"], scale_factor: float) -> CoordinateFrame:
    """Return the frame of the mean centre, viewing direction and down, with coordinates of at most 1 / scale_factor."""
    poses = c2w.double()
    forward = normalize(poses[:, :3, 2].mean(dim=0), dim=0)
    right = normalize(torch.linalg.cross(poses[:, :3, 1].mean(dim=0), forward), dim=0)
    down = normalize(torch.linalg.cross(forward, right), dim=0)
    mean = torch.eye(4, dtype=poses.dtype)
    mean[:3] = torch.stack([right, down, forward, poses[:, :3, 3].mean(dim=0)], dim=1)
    motion = torch.linalg.inv(mean)
    extent = (motion @ poses)[:, :3, 3].abs().max()
    # Centres that differ by rounding alone are one place: dividing by their spread would blow the noise up.
    apart = extent > ROUNDING * poses[:, :3, 3].abs().max()
    return CoordinateFrame(motion, 1 / (scale_factor * extent) if apart else torch.zeros_like(extent))


def canonicalise(c2w: Float[Tensor, "*b v 4 4"]) -> Float[Tensor, "*b v 4 4"]:
    """Express cameras relative to the first of them. Raises DataError when that matrix is close to singular."""
    first = c2w[..., :1, :, :].float()
    if (torch.linalg.cond(first) >= MAX_CONDITION).any():
        raise DataError("the first context camera's matrix is close to singular; check the scene's poses")
    return (torch.linalg.inv(first) @ c2w.float()).to(c2w.dtype)
