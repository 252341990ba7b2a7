"""From VGGT's encodings to cameras and back, and from depth to points (specs/vggt.md section 1)."""

import torch
from jaxtyping import Float
from torch import Tensor

from novelview.cameras.poses import c2w_to_encoding, encoding_to_c2w


def decode_poses(
    encoding: Float[Tensor, "*b 9"], size: tuple[int, int]
) -> tuple[Float[Tensor, "*b 4 4"], Float[Tensor, "*b 4"]]:
    """Return world-to-camera matrices in OpenCV axes, and fx fy cx cy in pixels of images of `size` (height, width).

    The principal point is the middle of the picture. A field of view of 0, which an untrained head gives, is an
    infinite focal length.
    """
    height, width = size
    fov_h, fov_w = encoding[..., 7:].unbind(-1)
    fx, fy = width / 2 / (fov_w / 2).tan(), height / 2 / (fov_h / 2).tan()
    middle = [torch.full_like(fx, width / 2), torch.full_like(fy, height / 2)]
    return encoding_to_c2w(encoding[..., :7]), torch.stack([fx, fy, *middle], dim=-1)


def encode_poses(
    w2c: Float[Tensor, "*b 4 4"], intrinsics: Float[Tensor, "*b 4"], size: tuple[int, int]
) -> Float[Tensor, "*b 9"]:
    """Return the encoding of cameras, the scalar of the quaternion not negative; the principal point is not in it."""
    height, width = size
    fov = [2 * torch.atan(height / 2 / intrinsics[..., 1]), 2 * torch.atan(width / 2 / intrinsics[..., 0])]
    return torch.cat([c2w_to_encoding(w2c), torch.stack(fov, dim=-1)], dim=-1)


def unproject(
    depth: Float[Tensor, "*b h w"], w2c: Float[Tensor, "*b 4 4"], intrinsics: Float[Tensor, "*b 4"]
) -> Float[Tensor, "*b h w 3"]:
    """Return the world point of every pixel from its z depth; pixels count from 0 at their centres, as VGGT's do."""
    height, width = depth.shape[-2:]
    fx, fy, cx, cy = (value[..., None, None] for value in intrinsics.to(depth.dtype).unbind(-1))
    rows = torch.arange(height, device=depth.device, dtype=depth.dtype)[:, None]
    columns = torch.arange(width, device=depth.device, dtype=depth.dtype)
    seen = torch.stack([(columns - cx) * depth / fx, (rows - cy) * depth / fy, depth], dim=-1)
    rotation, centre = w2c[..., :3, :3].to(depth.dtype), w2c[..., :3, 3].to(depth.dtype)
    return (seen - centre[..., None, None, :]) @ rotation[..., None, :, :]
