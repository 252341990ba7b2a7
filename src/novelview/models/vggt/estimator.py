"""VGGT as an estimator of a data set's cameras, and what stands before and after it (specs/vggt.md sections 1, 2)."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from novelview.cameras.camera import opaque
from novelview.cameras.poses import c2w_to_encoding, encoding_to_c2w
from novelview.config.sources import VggtEstimator
from novelview.errors import DataError
from novelview.models.vggt.model import VGGT, load_vggt
from novelview.scenes.chunks import ChunkScene
from novelview.scenes.estimation.estimate import Depth, Estimate

FEWEST = 2
SIDE, PATCH = 518, 14
WHITE = 1.0
MODES = ("crop", "pad")


@dataclass(frozen=True)
class Fit:
    """Where a picture's pixels went: x * scale_x - left, y * scale_y - top."""

    scale_x: float
    scale_y: float
    left: int
    top: int

    def original(self, intrinsics: Float[Tensor, "4"]) -> Float[Tensor, "4"]:
        """Return fx fy cx cy in the picture's own pixels."""
        moved = intrinsics + intrinsics.new_tensor([0, 0, self.left, self.top])
        return moved / intrinsics.new_tensor([self.scale_x, self.scale_y] * 2)


def preprocess(
    pictures: Sequence[Image.Image], mode: str = "crop", side: int | None = None
) -> tuple[Float[Tensor, "s 3 h w"], list[Fit]]:
    """Return pictures in [0,1], on white, sides multiples of 14, and where their pixels went.

    side: 518 pixels unless given. crop: `side` wide, the middle `side` rows of what is higher. pad: the longer side
    becomes `side`, white around it up to a square. Smaller pictures get white borders up to the largest. Raises
    DataError for no pictures, ValueError for another mode."""
    if mode not in MODES:
        raise ValueError(f"mode {mode!r}: choose one of {', '.join(MODES)}")
    if not pictures:
        raise DataError("VGGT needs at least one picture")
    side = side or SIDE
    fitted = [(_crop if mode == "crop" else _pad)(picture, side) for picture in pictures]
    height, width = (max(image.shape[axis] for image, _ in fitted) for axis in (-2, -1))
    framed = [_bordered(image, fit, height, width) for image, fit in fitted]
    return torch.stack([image for image, _ in framed]), [fit for _, fit in framed]


def _crop(picture: Image.Image, side: int) -> tuple[Tensor, Fit]:
    image, fit = _resized(picture, side, _rounded(picture.height * side / picture.width))
    top = max(0, (image.shape[-2] - side) // 2)
    return image[:, top : top + side], Fit(fit.scale_x, fit.scale_y, 0, top)


def _pad(picture: Image.Image, side: int) -> tuple[Tensor, Fit]:
    wide = picture.width >= picture.height
    other = _rounded(side * (picture.height / picture.width if wide else picture.width / picture.height))
    image, fit = _resized(picture, *((side, other) if wide else (other, side)))
    return _bordered(image, fit, side, side)


def _rounded(length: float) -> int:
    return max(PATCH, round(length / PATCH) * PATCH)


def _resized(picture: Image.Image, width: int, height: int) -> tuple[Tensor, Fit]:
    small = opaque(picture, WHITE).resize((width, height), Image.Resampling.BICUBIC)
    image = torch.from_numpy(np.asarray(small, np.float32) / 255).permute(2, 0, 1)
    return image, Fit(width / picture.width, height / picture.height, 0, 0)


def _bordered(image: Tensor, fit: Fit, height: int, width: int) -> tuple[Tensor, Fit]:
    """Put white around an image, the odd line at the bottom and on the right."""
    down, across = height - image.shape[-2], width - image.shape[-1]
    left, top = across // 2, down // 2
    framed = pad(image, (left, across - left, top, down - top), value=WHITE)
    return framed, Fit(fit.scale_x, fit.scale_y, fit.left - left, fit.top - top)


def decode_poses(
    encoding: Float[Tensor, "*b 9"], size: tuple[int, int]
) -> tuple[Float[Tensor, "*b 4 4"], Float[Tensor, "*b 4"]]:
    """Return world-to-camera matrices in OpenCV axes, and fx fy cx cy in pixels of images of `size` (height, width).

    The principal point is the middle. A field of view of 0, of an untrained head, is an infinite focal length."""
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


class Vggt:
    """All frames of a scene in one pass, one scene at a time."""

    name = "vggt"
    alone = True

    def __init__(self, cfg: VggtEstimator, device: torch.device, model: VGGT | None = None) -> None:
        """Load the weights, unless a model is given; raises CheckpointError where they are not there."""
        self.cfg, self.device = cfg, device
        self.model = (model or load_vggt(cfg.weights, cfg.model)).to(device).eval()

    @torch.no_grad()
    def estimate(self, scene: ChunkScene, frames: list[int], work: Path, log: Path) -> Estimate:
        """Return the cameras and the depth of all frames; raises DataError for fewer than two, or no field of view."""
        if len(frames) < FEWEST:
            raise DataError(f"{len(frames)} frames, VGGT is asked for the cameras of at least {FEWEST}")
        pictures = [Image.open(io.BytesIO(scene.images[frame].numpy().tobytes())).convert("RGB") for frame in frames]
        images, fits = preprocess(pictures, self.cfg.mode)
        half = self.device.type == "cuda" and self.cfg.amp == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            found = self.model(images[None].to(self.device))
        height, width = images.shape[-2:]
        w2c, lenses = (value[0].double().cpu() for value in decode_poses(found["pose_enc"].float(), (height, width)))
        if not lenses.isfinite().all():
            raise DataError("VGGT estimates a field of view of 0")
        depth = Depth(found["depth"][0, ..., 0].float().cpu(), found["depth_conf"][0].float().cpu())
        quality = {"median_depth": float(depth.values.median()), "confidence": float(depth.confidence.mean())}
        return Estimate(frames, w2c, _normalised(lenses, fits, pictures), quality, depth)


def _normalised(lenses: Tensor, fits: list[Fit], pictures: list[Image.Image]) -> Tensor:
    """Return fx/W fy/H cx/W cy/H of the pictures as they were before they were cut for VGGT."""
    own = torch.stack([fit.original(lens) for fit, lens in zip(fits, lenses, strict=True)])
    return own / torch.tensor([[*picture.size, *picture.size] for picture in pictures], dtype=own.dtype)
