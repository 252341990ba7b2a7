"""Pixels of a pinhole camera: resizing, rays, Plücker coordinates, points (specs/uplvsm.md sections 2.5 and 9)."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image as Pictures
from PIL.Image import Image, Resampling
from torch import Tensor

from novelview.config.schema import ViewsConfig, sides
from novelview.devices import full_precision
from novelview.errors import DataError

MIN_LENGTH = 1e-3  # a direction is divided by max(length, this), as the reference does


@dataclass(frozen=True)
class Plan:
    """How a frame of `height` x `width` pixels becomes the network's `out_h` x `out_w`: resize, then crop."""

    height: int
    width: int
    resize_h: int
    resize_w: int
    top: int
    left: int
    out_h: int
    out_w: int
    scale: float | None = None  # the intrinsics' factor where it is not the ratio of the rounded sizes
    centred: bool = False  # cx and cy keep their share of the picture instead of following the crop
    resample: str = "lanczos"

    def image(self, image: Image) -> UInt8[Tensor, "3 h w"]:
        """Resize and crop, transparency on white; raises DataError when the image has another size than planned."""
        if image.size != (self.width, self.height):
            raise DataError(f"an image of {image.size} pixels where {(self.width, self.height)} was recorded")
        colours = image if image.mode in ("RGB", "RGBA") else image.convert("RGB")
        resized = colours.resize((self.resize_w, self.resize_h), Resampling[self.resample.upper()])
        cropped = resized.crop((self.left, self.top, self.left + self.out_w, self.top + self.out_h))
        # NumPy moves the axes: torch would start a team of threads in every decoding thread.
        return torch.from_numpy(np.ascontiguousarray(np.asarray(opaque(cropped)).transpose(2, 0, 1)))

    def intrinsics(self, intrinsics: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
        """Carry fx fy cx cy in pixels of the frame over to pixels of the network's image."""
        across, down = self.scale or self.resize_w / self.width, self.scale or self.resize_h / self.height
        middle = (self.out_w / self.width, self.out_h / self.height) if self.centred else (across, down)
        corner = (0, 0) if self.centred else (self.left, self.top)
        scaled = intrinsics * torch.tensor([across, down, *middle], dtype=intrinsics.dtype)
        return scaled - torch.tensor([0, 0, *corner], dtype=intrinsics.dtype)


def resize_crop_plan(height: int, width: int, cfg: ViewsConfig) -> Plan:
    """Plan the resize and crop of a frame; raises DataError for one without enough pixels.

    resize=height: the height becomes image_size, the width a multiple of the patch; `square_crop` keeps the centre
    square, for a portrait frame smaller than image_size (a quirk) unless `portrait=fit`. resize=cover: `cover_plan`;
    centred: its pictures with the intrinsics of specs/depthsplat.md section 11."""
    if min(height, width) < 1:
        raise DataError(f"a frame of {width}x{height} pixels cannot be resized")
    if cfg.resize != "height":
        plan = cover_plan(height, width, *sides(cfg))
        own = {"scale": None, "centred": True} if cfg.resize == "centred" else {}
        return replace(plan, resample=cfg.filter, **own)
    size, patch = cfg.image_size, cfg.patch_size

    def to_multiple(length: float) -> int:  # truncation before rounding and ties to even are the reference's
        return round(int(length) / patch) * patch

    if width < height and cfg.square_crop and cfg.portrait == "fit":
        resize_h, resize_w = max(size, to_multiple(size / width * height)), size
    else:
        resize_h, resize_w = size, to_multiple(size / height * width)
    side = min(resize_h, resize_w)
    if side < patch:
        raise DataError(f"a frame of {width}x{height} pixels is too narrow for patches of {patch} at size {size}")
    out_h, out_w = (side, side) if cfg.square_crop else (resize_h, resize_w)
    top, left = (resize_h - out_h) // 2, (resize_w - out_w) // 2
    return Plan(height, width, resize_h, resize_w, top, left, out_h, out_w, resample=cfg.filter)


def cover_plan(height: int, width: int, out_h: int, out_w: int) -> Plan:
    """Plan the resize that just covers out_h x out_w, and the centre crop to it, as the reference (specs/lact.md 8)."""
    scale = max(out_h / height, out_w / width)
    resize_h, resize_w = round(height * scale), round(width * scale)
    top, left = (resize_h - out_h) // 2, (resize_w - out_w) // 2
    return Plan(height, width, resize_h, resize_w, top, left, out_h, out_w, scale)


def opaque(picture: Image, background: float = 1.0) -> Image:
    """Return an RGB picture; transparent pixels show a grey of value `background` in [0,1]."""
    if picture.mode == "RGB":
        return picture
    paper = Pictures.new("RGB", picture.size, (round(255 * background),) * 3)
    paper.paste(picture, mask=picture.getchannel("A"))
    return paper


def rays(
    c2w: Float[Tensor, "*b 4 4"], intrinsics: Float[Tensor, "*b 4"], height: int, width: int
) -> tuple[Float[Tensor, "*b 3 h w"], Float[Tensor, "*b 3 h w"]]:
    """Return origins and unit directions, in the world, of rays through all pixel centres; float32 under autocast."""
    with full_precision(c2w):
        c2w, intrinsics = (value.float() if value.dtype != torch.float64 else value for value in (c2w, intrinsics))
        ys, xs = (torch.arange(size, dtype=c2w.dtype, device=c2w.device) + 0.5 for size in (height, width))
        fx, fy, cx, cy = (part[..., None] for part in intrinsics.unbind(-1))
        x = ((xs - cx) / fx)[..., None, :].expand(*c2w.shape[:-2], height, width)
        y = ((ys - cy) / fy)[..., :, None].expand_as(x)
        camera = torch.stack([x, y, torch.ones_like(x)], dim=-3)
        world = (c2w[..., :3, :3] @ camera.flatten(-2)).unflatten(-1, (height, width))
        # PyTorch's norm and cross product over an inner axis take a sixth of a small model's training step on a CPU.
        length = world.square().sum(dim=-3, keepdim=True).sqrt()
        direction = world / length.clamp(min=MIN_LENGTH)
        return c2w[..., :3, 3, None, None].expand_as(direction), direction


def plucker(
    c2w: Float[Tensor, "*b 4 4"], intrinsics: Float[Tensor, "*b 4"], height: int, width: int
) -> Float[Tensor, "*b 6 h w"]:
    """Return the Plücker coordinates (origin x direction, direction) of every pixel's ray."""
    origin, direction = rays(c2w, intrinsics, height, width)
    with full_precision(direction):
        x, y, z = origin[..., 0, 0].unbind(-1)
        none = torch.zeros_like(x)
        cross = torch.stack([none, -z, y, z, none, -x, -y, x, none], dim=-1).unflatten(-1, (3, 3))
        moment = cross @ direction.flatten(-2)
    return torch.cat([moment.view_as(direction), direction], dim=-3)


def unproject(
    depth: Float[Tensor, "v h w"], c2w: Float[Tensor, "v 4 4"], intrinsics: Float[Tensor, "v 4"]
) -> Float[Tensor, "v 3 h w"]:
    """Return world points at pixel centres of z-depth maps, in float64 inside; intrinsics: fx fy cx cy in pixels."""
    height, width = depth.shape[-2:]
    ys, xs = (torch.arange(size, device=depth.device).double() + 0.5 for size in (height, width))
    y, x = torch.meshgrid(ys, xs, indexing="ij")
    fx, fy, cx, cy = intrinsics.double()[..., None, None].unbind(1)
    rays = torch.stack([(x - cx) / fx, (y - cy) / fy, torch.ones_like(x).expand(len(depth), -1, -1)], dim=1)
    pose = c2w.double()
    points = torch.einsum("vij,vjhw->vihw", pose[:, :3, :3], rays * depth.double()[:, None])
    return (points + pose[:, :3, 3, None, None]).to(depth.dtype)
