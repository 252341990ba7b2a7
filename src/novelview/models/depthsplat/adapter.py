"""From raw channels of pixels to Gaussians in the world (specs/depthsplat.md section 8, specs/pmloss.md section 3)."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from novelview.config.models import GaussianConfig
from novelview.devices import full_precision
from novelview.models.depthsplat.rotation import rotate_sh
from novelview.splatting.gaussians import Gaussians
from novelview.splatting.harmonics import C0

EPS = 1e-8
FIXED = 7  # scale 3, quaternion 4
FIRST_BAND, BAND_RATIO = 0.1, 0.25  # harmonics of degree l >= 1 start FIRST_BAND * BAND_RATIO^l times smaller
SHIFT = 4.0  # of the raw scale


def raw_channels(cfg: GaussianConfig) -> int:
    """Return the channels of a pixel's Gaussian: opacity, confidence if any, offset, scale, quaternion, colour."""
    return 1 + (cfg.confidence_activation != "none") + 2 + FIXED + 3 * (cfg.sh_degree + 1) ** 2


def sh_mask(degree: int) -> Float[Tensor, " k"]:
    """Return the factor of every coefficient: 1, then 0.1 * 0.25^l."""
    bands = [1.0] + [FIRST_BAND * BAND_RATIO**band for band in range(1, degree + 1)]
    return torch.cat([torch.full((2 * band + 1,), value) for band, value in enumerate(bands)])


def pixel_centres(height: int, width: int, like: Tensor) -> Float[Tensor, "n 2"]:
    """Return x, y of all pixel centres over width and height, row by row."""
    y, x = ((torch.arange(size, device=like.device, dtype=like.dtype) + 0.5) / size for size in (height, width))
    return torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], dim=-1).flatten(0, 1)


def shift_of(raw: Float[Tensor, "*n 2"], cfg: GaussianConfig) -> Float[Tensor, "*n 2"]:
    """Return the offset from the pixel centre, in pixels."""
    if cfg.offset_mode == "ori":
        return raw.sigmoid() - 0.5
    if cfg.offset_mode == "pixel":
        return raw.tanh() * (cfg.offset_factor / 2)
    return raw * cfg.offset_factor


def world_rays(
    xy: Float[Tensor, "*b n 2"], c2w: Float[Tensor, "*b 4 4"], intrinsics: Float[Tensor, "*b 3 3"], unit: bool = False
) -> tuple[Float[Tensor, "*b n 3"], Float[Tensor, "*b n 3"]]:
    """Return origins and directions in the world of points of the image, x and y over width and height.

    intrinsics: normalised likewise. Directions have z = 1 in the camera, so that depth is z, or length 1 (`unit`).
    """
    local = torch.cat([xy, torch.ones_like(xy[..., :1])], dim=-1) @ intrinsics.inverse().mT
    local = local / (local.norm(dim=-1, keepdim=True) if unit else local[..., 2:])
    directions = local @ c2w[..., :3, :3].mT
    return c2w[..., None, :3, 3].expand_as(directions), directions


def scales_of(raw: Float[Tensor, "*n 3"], cfg: GaussianConfig) -> Float[Tensor, "*n 3"]:
    """Return standard deviations in scene units."""
    if cfg.scale_activation == "exp":
        return (raw - SHIFT).exp().clamp(max=cfg.scale_max)
    return softplus(raw - SHIFT).clamp(cfg.scale_min, cfg.scale_max)


def rotation_of(quaternion: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 3 3"]:
    """Return the rotations of quaternions x y z w of about unit length."""
    x, y, z, w = quaternion.unbind(-1)
    s = 2 / (quaternion.square().sum(dim=-1) + EPS)
    rows = (
        (1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)),
        (s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w)),
        (s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y)),
    )
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


def shapes_of(
    raw: Float[Tensor, "*b n 7"], c2w: Float[Tensor, "*b 4 4"], cfg: GaussianConfig
) -> tuple[Float[Tensor, "*b n 3"], Float[Tensor, "*b n 4"], Float[Tensor, "*b n 3 3"]]:
    """Return scales, unit quaternions x y z w in the camera, and covariances in the world."""
    scales, quaternion = scales_of(raw[..., :3], cfg), raw[..., 3:]
    quaternion = quaternion / (quaternion.norm(dim=-1, keepdim=True) + EPS)
    half = c2w[..., None, :3, :3] @ (rotation_of(quaternion) * scales[..., None, :])
    return scales, quaternion, half @ half.mT


def colours_of(
    raw: Float[Tensor, "*b n 3k"],
    c2w: Float[Tensor, "*b 4 4"],
    colours: Float[Tensor, "*b n 3"],
    cfg: GaussianConfig,
) -> Float[Tensor, "*b n 3 k"]:
    """Return harmonics in the world; colours: RGB in [0,1] of the pixels."""
    mask = sh_mask(cfg.sh_degree).to(raw)
    harmonics = raw.unflatten(-1, (3, -1)) * mask
    if cfg.sh_from_image:
        constant = torch.zeros_like(mask)
        constant[0] = 1 / C0
        harmonics = harmonics + (colours - 0.5)[..., None] * constant
    turned = rotate_sh(harmonics.flatten(-3, -2), c2w[..., :3, :3], cfg.sh_rotation == "equivariant")
    return turned.unflatten(-2, (-1, 3))


def gaussians_of(
    raw: Float[Tensor, "b v c h w"],
    depth: Float[Tensor, "b v h w"],
    images: Float[Tensor, "b v 3 h w"],
    c2w: Float[Tensor, "b v 4 4"],
    intrinsics: Float[Tensor, "b v 3 3"],
    cfg: GaussianConfig,
) -> Gaussians:
    """Return one Gaussian a pixel of every view, view by view, row by row.

    raw: channels of the head; depth: z, or along the ray with `unit_rays`; intrinsics: first two rows over width and
    height.
    """
    height, width = depth.shape[-2:]
    with full_precision(raw):
        pixels, colours = (value.float().flatten(3).mT for value in (raw, images))
        opacity, rest = pixels[..., 0], pixels[..., 1 + (cfg.confidence_activation != "none") :]
        size = rest.new_tensor([width, height])
        xy = pixel_centres(height, width, rest) + shift_of(rest[..., :2], cfg) / size
        origins, directions = world_rays(xy, c2w, intrinsics, cfg.unit_rays)
        means = origins + directions * depth.float().flatten(2)[..., None]
        covariances = shapes_of(rest[..., 2 : 2 + FIXED], c2w, cfg)[2]
        harmonics = colours_of(rest[..., 2 + FIXED :], c2w, colours, cfg)
    parts = (means, covariances, opacity.sigmoid(), harmonics)
    return Gaussians(*(part.flatten(1, 2) for part in parts))
