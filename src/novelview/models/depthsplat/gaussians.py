"""From context views to Gaussians in the world (specs/depthsplat.md sections 8 and 9, specs/pmloss.md section 3).

The encoder joins depth and features at full size in a head; its raw channels become a Gaussian a pixel, whose harmonics
are turned with the camera by Wigner matrices, polar axis y."""

from dataclasses import dataclass
from functools import cache
from math import log2

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, softplus

from novelview.config.models import DepthSplatConfig, GaussianConfig
from novelview.devices import full_precision
from novelview.models.depthsplat.depth import Cameras, DepthPrediction, DepthPredictor, Features, widths
from novelview.models.depthsplat.features import ResizeUpsampler, UNet, regressor
from novelview.models.dpt import DepthSplatDPT, replicate_head
from novelview.splatting.gaussians import C0, Gaussians, degree_of, sh_basis

LARGE, PLAIN = (1, 2, 4, 4, 4), (1, 1, 1, 1, 1)  # widths of the levels of the colour U-Net
COLOUR_ATTENTION = 16
WIDE_FEATURES = 128  # of the resize_conv upsampler, from which on the head's hidden layer is twice as wide
EPS = 1e-8
FIXED = 7  # scale 3, quaternion 4
FIRST_BAND, BAND_RATIO = 0.1, 0.25  # harmonics of degree l >= 1 start FIRST_BAND * BAND_RATIO^l times smaller
SHIFT = 4.0  # of the raw scale
DIRECTIONS = 64  # more than the 2l+1 that fix a block, so that the least squares are well conditioned
GOLDEN = 2.399963229728653  # angle in radians


@dataclass
class Encoded:
    """What the encoder finds in b scenes.

    gaussians: one set for each prediction of depth, coarse to fine; empty without Gaussian heads. Only the means of the
    sets differ. confidence: [b n] of every Gaussian where the head gives it."""

    depth: DepthPrediction
    gaussians: list[Gaussians]
    confidence: Float[Tensor, "b n"] | None = None


class DepthSplatEncoder(nn.Module):
    """Parameters have the published names, without the prefix `encoder.`."""

    def __init__(self, cfg: DepthSplatConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.depth_predictor = DepthPredictor(cfg)
        if cfg.train_depth_only:
            return
        self.feature_upsampler, features = _upsampler(cfg)
        self.gaussian_regressor = _regressor(cfg, 3 + 1 + 1 + features)
        self.gaussian_head = _head(cfg.gaussian, cfg.gaussian.regressor_channels + 3 + features + 1)

    def forward(self, images: Float[Tensor, "b v 3 h w"], cameras: Cameras) -> Encoded:
        """Return depths and Gaussians of context views. images: RGB in [0,1], sides multiples of `patch_size`."""
        found = self.depth_predictor(images, cameras)
        if self.cfg.train_depth_only:
            return Encoded(found, [])
        # How sure the finest matching is: the largest probability of its candidates.
        best = found.match_probs[-1].max(dim=1, keepdim=True).values
        match = interpolate(best, size=images.shape[-2:], mode="nearest")
        raw = self._raw(found, images, match)
        sets = [
            gaussians_of(raw, depth, images, cameras.c2w, cameras.intrinsics, self.cfg.gaussian)
            for depth in found.depths
        ]
        return Encoded(found, sets, self._confidence(raw, match))

    def _raw(
        self, found: DepthPrediction, images: Float[Tensor, "b v 3 h w"], match: Float[Tensor, "n 1 h w"]
    ) -> Float[Tensor, "b v c h w"]:
        pictures, views = images.flatten(0, 1), images.shape[1]
        features = self._features(found.features)
        depth = found.depths[-1].flatten(0, 1)[:, None]
        joined = torch.cat([pictures, depth, match, features], dim=1)
        regressed = self.gaussian_regressor(joined, views)
        raw = self.gaussian_head(torch.cat([regressed, pictures, features, match], dim=1))
        return raw.unflatten(0, (-1, views))

    def _features(self, maps: Features) -> Float[Tensor, "n f h w"]:
        if self.cfg.gaussian.upsampler == "dpt":
            return self.feature_upsampler(maps.layers, maps.cnn, maps.mv)
        scales = zip(maps.cnn, maps.mv, maps.mono, strict=False)
        return self.feature_upsampler([torch.cat(scale, dim=1) for scale in scales])

    def _confidence(
        self, raw: Float[Tensor, "b v c h w"], match: Float[Tensor, "n 1 h w"]
    ) -> Float[Tensor, "b n"] | None:
        kind = self.cfg.gaussian.confidence_activation
        if kind == "none":
            return None
        learnt = raw[:, :, 1].sigmoid() if kind == "sigmoid" else softplus(raw[:, :, 1])
        return (learnt + match.detach().view_as(learnt)).flatten(1)


def _upsampler(cfg: DepthSplatConfig) -> tuple[nn.Module, int]:
    """Return the module that brings features to full size, and its channels."""
    cnn, mv, mono = widths(cfg)
    if cfg.gaussian.upsampler == "dpt":
        dpt = cfg.dpt
        sizes = (cfg.dino.embed_dim, dpt.out_channels, dpt.gaussian_features)
        return DepthSplatDPT(*sizes, cnn, mv, cfg.upsample_factor, depth=False), dpt.gaussian_features
    inner = [sum(scale) for scale in zip(cnn, mv, mono, strict=False)]
    doublings = [int(log2(cfg.lowest_feature_resolution)) - scale for scale in range(cfg.num_scales)]
    out = cfg.gaussian.upsampler_channels
    return ResizeUpsampler(inner, doublings, out), out // cfg.num_scales * cfg.num_scales


def _regressor(cfg: DepthSplatConfig, inner: int) -> nn.Module:
    channels, unet = cfg.gaussian.regressor_channels, None
    if cfg.gaussian.regressor == "unet":
        factors = LARGE if cfg.gaussian.large_unet else PLAIN
        unet = UNet(channels, factors, {COLOUR_ATTENTION}, cfg.unet_head_channels)
    return regressor(inner, channels, unet)


def _head(cfg: GaussianConfig, inner: int) -> nn.Sequential:
    """Return the last two convolutions; scales start equal, harmonics at the pixel's colour."""
    out = raw_channels(cfg)
    wide = cfg.upsampler == "resize_conv" and cfg.upsampler_channels == WIDE_FEATURES
    hidden = 2 * out if wide else out
    head = replicate_head(inner, hidden, out)
    weight, bias = head[2].parameters()
    scales = out - 3 * (cfg.sh_degree + 1) ** 2 - FIXED
    with torch.no_grad():
        for part in (weight, bias):
            part[scales : scales + 3] = 0
            part[scales + FIXED :] *= not cfg.sh_from_image
        if cfg.second_channel_bias:
            bias[1] = cfg.second_channel_bias
    return head


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

    intrinsics: normalised likewise. Directions have z = 1 in the camera, so that depth is z, or length 1 (`unit`)."""
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
    raw: Float[Tensor, "*b n 3k"], c2w: Float[Tensor, "*b 4 4"], colours: Float[Tensor, "*b n 3"], cfg: GaussianConfig
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
    height."""
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


def harmonics_y(directions: Float[Tensor, "*n 3"], degree: int) -> Float[Tensor, "*n k"]:
    """Return the real harmonics with polar axis y: degree 1 is proportional to (x, y, z)."""
    x, y, z = directions.unbind(-1)
    basis = sh_basis(torch.stack([z, x, y], dim=-1), degree)
    return basis * signs(degree).to(basis)


def signs(degree: int) -> Float[Tensor, " k"]:
    """Return (-1)^m of every coefficient, which is what these harmonics and the renderer's differ by."""
    return torch.cat([(-1.0) ** torch.arange(-band, band + 1).abs() for band in range(degree + 1)])


@cache
def _sphere() -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return directions spread over the sphere, and the pseudoinverse of each band's values there."""
    with torch.device("cpu"):  # kept for every later call, whatever device this first one counts on
        y = 1 - (2 * torch.arange(DIRECTIONS, dtype=torch.float64) + 1) / DIRECTIONS
        angle, radius = torch.arange(DIRECTIONS, dtype=torch.float64) * GOLDEN, (1 - y * y).sqrt()
        points = torch.stack([radius * angle.cos(), y, radius * angle.sin()], dim=-1)
        basis = harmonics_y(points, 4)
        return points, tuple(torch.linalg.pinv(basis[:, band**2 : (band + 1) ** 2].mT) for band in range(5))


def wigner(rotation: Float[Tensor, "*b 3 3"], degree: int) -> list[Float[Tensor, "*b m m"]]:
    """Return the matrices D of bands 0 to `degree`, Y(R d) = D Y(d), in float64; band 1 is R itself."""
    points, inverses = _sphere()
    turned = points.to(rotation.device) @ rotation.double().mT
    basis = harmonics_y(turned, degree).mT
    bands = (basis[..., band**2 : (band + 1) ** 2, :] for band in range(degree + 1))
    return [values @ inverse.to(rotation.device) for values, inverse in zip(bands, inverses, strict=False)]


def rotate_sh(
    harmonics: Float[Tensor, "*b n k"], rotation: Float[Tensor, "*b 3 3"], equivariant: bool = False
) -> Float[Tensor, "*b n k"]:
    """Turn n sets of coefficients each by a rotation (camera to world), degrees 0 to 4.

    Published weights expect D in the order of harmonics with polar axis y, although the renderer's differ by (-1)^m,
    so that colours do not turn exactly with the camera; `equivariant` mends that."""
    degree = degree_of(harmonics.shape[-1])
    sign = signs(degree).to(harmonics)
    turned = []
    for band, matrix in enumerate(wigner(rotation, degree)):
        part = slice(band**2, (band + 1) ** 2)
        values = harmonics[..., part] * sign[part] if equivariant else harmonics[..., part]
        values = values @ matrix.to(harmonics.dtype).mT
        turned.append(values * sign[part] if equivariant else values)
    return torch.cat(turned, dim=-1)
