"""VGGT as one module under the published key names (specs/vggt.md section 1), and its published weights."""

from pathlib import Path
from typing import TypedDict

import torch
from jaxtyping import Float
from torch import Tensor, nn

from novelview.config.sources import VGGTConfig
from novelview.devices import full_precision
from novelview.errors import CheckpointError, DataError
from novelview.models.dpt import VggtDPT
from novelview.models.layers import check_size
from novelview.models.published import match_keys, read_state
from novelview.models.vggt.aggregator import Aggregator, CameraHead

FRAMES_AT_ONCE = 8  # of what works frame by frame: patch embedding and dense heads
LEFT_OUT = "track_head."  # follows points given to it; cameras, depth and point maps do without


def inverse_log(x: Tensor) -> Tensor:
    """Return sign(x) (exp |x| - 1): coordinates of any size out of moderate numbers."""
    return x.sign() * torch.expm1(x.abs())


class Prediction(TypedDict):
    """What VGGT says of b scenes of s frames; lengths are relative: scene by scene on a scale of its own.

    pose_enc: translation and quaternion (scalar last) of world-to-camera, OpenCV axes, and the vertical and horizontal
    field of view in radians; the first frame's camera is about the world. depth: along z. depth_conf,
    world_points_conf: 1 or more. world_points: in the first camera's frame.
    """

    pose_enc: Float[Tensor, "b s 9"]
    depth: Float[Tensor, "b s h w 1"]
    depth_conf: Float[Tensor, "b s h w"]
    world_points: Float[Tensor, "b s h w 3"]
    world_points_conf: Float[Tensor, "b s h w"]


class VGGT(nn.Module):
    """Cameras, depth and point maps of frames of one scene; the track head of the published weights is left out."""

    def __init__(self, cfg: VGGTConfig | None = None) -> None:
        super().__init__()
        self.cfg = cfg or VGGTConfig()
        self.aggregator = Aggregator(self.cfg)
        self.camera_head = CameraHead(self.cfg)
        sizes = (2 * self.cfg.embed_dim, self.cfg.dpt.out_channels, self.cfg.dpt.features)
        self.point_head = VggtDPT(*sizes, 4, self.cfg.patch_vit.patch_size, inverse_log)
        self.depth_head = VggtDPT(*sizes, 2, self.cfg.patch_vit.patch_size, torch.exp)

    def forward(self, images: Float[Tensor, "b s 3 h w"], chunk: int = FRAMES_AT_ONCE) -> Prediction:
        """Return everything that is predicted; all frames attend to each other, so they share one world.

        images: RGB in [0,1], both sides multiples of the patch. chunk: frames that pass patch embedding and dense
        heads at a time, which bounds memory and changes nothing else. The heads run in float32, also under autocast.
        Raises DataError for images of another size, without frames, or of another number of channels.
        """
        layers = self.tokens(images, chunk)
        with full_precision(images):
            return self._heads({number: x.float() for number, x in layers.items()}, images.shape[-2:], chunk)

    def tokens(self, images: Float[Tensor, "b s 3 h w"], chunk: int = FRAMES_AT_ONCE) -> dict[int, Tensor]:
        """Return the layers the heads read, by number; see `Aggregator`."""
        if images.dim() != 5 or images.shape[2] != 3 or not images.shape[1]:
            raise DataError(f"VGGT takes images [scenes, frames, 3, height, width], got {list(images.shape)}")
        check_size(images.shape[-2], images.shape[-1], self.cfg.patch_vit.patch_size)
        return self.aggregator(images, {*self.cfg.dpt.intermediate_layer_idx, self.cfg.depth - 1}, chunk)

    def _heads(self, layers: dict[int, Tensor], size: torch.Size, chunk: int) -> Prediction:
        last = layers[self.cfg.depth - 1]
        read = [layers[number][:, :, self.aggregator.special :] for number in self.cfg.dpt.intermediate_layer_idx]
        dense = [self._dense(head, read, size, chunk) for head in (self.depth_head, self.point_head)]
        return Prediction(
            pose_enc=self.camera_head(last[:, :, 0])[-1],
            depth=dense[0][0],
            depth_conf=dense[0][1],
            world_points=dense[1][0],
            world_points_conf=dense[1][1],
        )

    @staticmethod
    def _dense(head: VggtDPT, read: list[Tensor], size: torch.Size, chunk: int) -> tuple[Tensor, Tensor]:
        parts = zip(*(x.flatten(0, 1).split(chunk) for x in read), strict=True)
        values, confidences = zip(*(head(part, *size) for part in parts), strict=True)
        batch = read[0].shape[:2]
        return torch.cat(values).unflatten(0, batch), torch.cat(confidences).unflatten(0, batch)


def load_vggt(path: Path | str, cfg: VGGTConfig | None = None) -> VGGT:
    """Return VGGT with the weights of a file (`model.safetensors` or `model.pt` of facebook/VGGT-1B), for inference.

    Every weight is loaded but those under `track_head.`, which are left out. Raises CheckpointError, one line, for a
    missing or damaged file and for weights missing, unknown or of another shape.
    """
    if not Path(path).is_file():
        raise CheckpointError(
            f"{path}: the weights of VGGT are not here; fetch them with `python -m novelview.stages.fetch vggt` "
            "(5.0 GB, licence of their own)"
        )
    state = {key: value.float() for key, value in read_state(path).items() if not key.startswith(LEFT_OUT)}
    with torch.device("meta"):
        model = VGGT(cfg)
    match_keys(path, state, model.state_dict())
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(False).eval()


def inference_bytes(cfg: VGGTConfig, frames: int, height: int, width: int, chunk: int = FRAMES_AT_ONCE) -> int:
    """Return about how many bytes a pass in float32 needs beside the weights: an estimate, for choosing `frames`.

    Three parts: the layers kept for the heads; a block at work on all tokens (residual, q k v, hidden of the MLP), as
    much as attention without a stored score matrix needs; and the dense head's maps, `chunk` frames at a time.
    """
    tokens = frames * (1 + cfg.num_register_tokens + (height // 14) * (width // 14))
    kept = len({*cfg.dpt.intermediate_layer_idx, cfg.depth - 1}) * 2 * cfg.embed_dim
    working = 10 * cfg.embed_dim
    maps = min(chunk, frames) * height * width * (cfg.dpt.features // 2 * 2 + 3 * 32)
    return 4 * (tokens * (kept + working) + maps)
