"""Cameras as relative encodings: PRoPE and GTA (arXiv 2507.10496, specs/prope.md).

Attention between tokens of cameras t and s sees only P_t P_s^-1, where P is the projective matrix image <- world:
queries take P_t^T, keys and values P_s^-1, outputs P_t. Half of a head's channels carry that in groups of 4, a quarter
each the column and the row of the patch (RoPE). Nothing is learnt."""

import functools
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from novelview.cameras.camera import plucker
from novelview.devices import full_precision

FREQ_BASE = 100.0
MULTIPLE = 8  # of the head width: half of it in groups of 4, two quarters in pairs


@dataclass
class RelativeCameras:
    """The transforms of all tokens of b x v cameras, each with the same grid of patches, row by row.

    project, unproject: P and P^-1 [b v 4 4], float32 or wider; None leaves the projective half alone. cos, sin: of the
    angles [n 2 F] of every patch's column and row."""

    project: Float[Tensor, "b v 4 4"] | None
    unproject: Float[Tensor, "b v 4 4"] | None
    cos: Float[Tensor, "n 2 f"]
    sin: Float[Tensor, "n 2 f"]

    def query(self, x: Float[Tensor, "b h m d"]) -> Float[Tensor, "b h m d"]:
        """Transform queries: P^T and the patch's rotation. Tokens are ordered (camera, row, column)."""
        return self._apply(x, self._matrices[0], self._waves[1])

    def key(self, x: Float[Tensor, "b h m d"]) -> Float[Tensor, "b h m d"]:
        """Transform keys or values: P^-1 and the patch's rotation."""
        return self._apply(x, self._matrices[1], self._waves[1])

    def output(self, x: Float[Tensor, "b h m d"]) -> Float[Tensor, "b h m d"]:
        """Transform what attention gives back: P and the inverse rotation."""
        return self._apply(x, self._matrices[2], -self._waves[1])

    def _apply(self, x: Tensor, matrix: Tensor | None, sine: Tensor) -> Tensor:
        """Return x M * cosine + x S * sine, tokens in rows. Products with matrices that are mostly zero cost nothing
        beside passes over parts of a head's channels, which took half of a training step."""
        with full_precision(x):
            dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
            rows = x.transpose(1, 2).to(dtype).unflatten(1, (-1, len(self.cos)))  # [b v n h d]
            moved = rows
            if matrix is not None:
                moved = (rows.flatten(2, 3) @ matrix.to(dtype)).view_as(rows)
            other = rows @ self._waves[2].to(dtype)
            turned = torch.addcmul(moved * self._waves[0].to(dtype), other, sine.to(dtype))
            return turned.to(x.dtype).flatten(1, 2).transpose(1, 2)

    @functools.cached_property
    def _matrices(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """What rows of queries, of keys and values, and of outputs are multiplied with on the right [b v d d]."""
        if self.project is None or self.unproject is None:
            return None, None, None
        return self._blocks(self.project), self._blocks(self.unproject.mT), self._blocks(self.project.mT)

    def _blocks(self, matrix: Float[Tensor, "b v 4 4"]) -> Float[Tensor, "b v d d"]:
        groups, half = self.cos.shape[-1], MULTIPLE * self.cos.shape[-1] // 2
        eye = torch.eye(groups, dtype=matrix.dtype, device=matrix.device)
        projective = (eye[:, None, :, None] * matrix[..., None, :, None, :]).flatten(-4, -3).flatten(-2)
        rest = torch.eye(half, dtype=matrix.dtype, device=matrix.device).expand(*matrix.shape[:-2], half, half)
        pad = torch.nn.functional.pad
        return torch.cat([pad(projective, (0, half)), pad(rest, (half, 0))], dim=-2)

    @functools.cached_property
    def _waves(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return cosine and sine of every patch's channels [n 1 d], and the channel that goes with the sine [d d]."""
        count = self.cos.shape[-1]
        pad, half = torch.nn.functional.pad, MULTIPLE * count // 2
        cosine, sine = (one.repeat(1, 1, 2).flatten(1)[:, None] for one in (self.cos, self.sin))
        eye = torch.eye(count, dtype=self.cos.dtype, device=self.cos.device)
        pair = torch.cat([pad(-eye, (count, 0)), pad(eye, (0, count))])  # of one axis: u gets v, v gets -u
        return (
            pad(cosine, (half, 0), value=1.0),
            pad(sine, (half, 0)),
            pad(torch.block_diag(pair, pair), (half, 0, half, 0)),
        )


def relative_cameras(
    c2w: Float[Tensor, "b v 4 4"],
    intrinsics: Float[Tensor, "b v 4"] | None,
    size: tuple[int, int],
    patch: int,
    d_head: int,
) -> RelativeCameras:
    """Return PRoPE's transforms of cameras, or GTA's (world to camera alone) without intrinsics.

    c2w: OpenCV camera-to-world, rigid; intrinsics: fx fy cx cy in pixels; size: height, width in pixels."""
    height, width = size
    with full_precision(c2w):
        wide = c2w if c2w.dtype == torch.float64 else c2w.float()
        rotation, centre = wide[..., :3, :3].mT, wide[..., :3, 3:]
        w2c = _affine(rotation, -rotation @ centre)
        project, unproject = w2c, _affine(wide[..., :3, :3], centre)
        if intrinsics is not None:
            scale = intrinsics.new_tensor([width, height, width, height])
            shift = intrinsics.new_tensor([0.0, 0.0, 0.5, 0.5])
            fx, fy, cx, cy = (intrinsics / scale - shift).to(wide.dtype).unbind(-1)
            project = _lens(fx, fy, cx, cy) @ w2c
            unproject = unproject @ _lens(1 / fx, 1 / fy, -cx / fx, -cy / fy)
    cos, sin = grid_angles(height // patch, width // patch, d_head, wide)
    return RelativeCameras(project, unproject, cos, sin)


def grid_angles(rows: int, columns: int, d_head: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return cos and sin [n 2 F] of RoPE's angles: every patch's column, then row, times F frequencies."""
    count = d_head // MULTIPLE
    frequencies = FREQ_BASE ** -(torch.arange(count, device=like.device, dtype=torch.float32) / count)
    row, column = torch.meshgrid(
        torch.arange(rows, device=like.device), torch.arange(columns, device=like.device), indexing="ij"
    )
    angles = torch.stack([column.flatten(), row.flatten()], dim=1)[..., None] * frequencies
    return angles.cos(), angles.sin()


def camera_rays(
    cameras: str, c2w: Float[Tensor, "*b 4 4"], intrinsics: Float[Tensor, "*b 4"], size: tuple[int, int]
) -> Float[Tensor, "*b 6 h w"]:
    """Return what tokens are told of their cameras by `model.cameras`: rays in the world, or with `prope` in their own
    camera, both (moment, direction) of every pixel."""
    return camray(intrinsics, *size) if cameras == "prope" else plucker(c2w, intrinsics, *size)


def camray(intrinsics: Float[Tensor, "*b 4"], height: int, width: int) -> Float[Tensor, "*b 6 h w"]:
    """Return every pixel's ray as its own camera sees it: moment 0, then the unit direction (specs/prope.md, 3)."""
    eye = torch.eye(4, dtype=intrinsics.dtype, device=intrinsics.device).expand(*intrinsics.shape[:-1], 4, 4)
    return plucker(eye, intrinsics, height, width)


def _affine(rotation: Tensor, translation: Tensor) -> Tensor:
    last = rotation.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*rotation.shape[:-2], 1, 4)
    return torch.cat([torch.cat([rotation, translation], dim=-1), last], dim=-2)


def _lens(fx: Tensor, fy: Tensor, cx: Tensor, cy: Tensor) -> Tensor:
    zero, one = torch.zeros_like(fx), torch.ones_like(fx)
    rows = [fx, zero, cx, zero, zero, fy, cy, zero, zero, zero, one, zero, zero, zero, zero, one]
    return torch.stack(rows, dim=-1).unflatten(-1, (4, 4))
