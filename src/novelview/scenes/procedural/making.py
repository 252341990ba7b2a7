"""One room from number to finished scene: cameras, frames as JPEG, evaluation entries."""

import io
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from novelview.config.sources import RoomsSource
from novelview.scenes.chunks import ChunkScene
from novelview.scenes.procedural.entries import room_entries
from novelview.scenes.procedural.layout import Room, room_for
from novelview.scenes.procedural.shading import render_frames

FRAME_MICROSECONDS = 33_333
Entries = dict[str, dict[str, Any] | None]


@dataclass
class Filmed:
    """A room, its frames as RGB bytes [n h w 3] in host memory, its entry in each index (none for training rooms)."""

    room: Room
    frames: UInt8[Tensor, "n h w 3"]
    entries: Entries


@dataclass
class MadeRoom:
    """One finished room: what goes into its chunk, and its entry in each evaluation index."""

    scene: ChunkScene
    entries: Entries


def film(source: RoomsSource, split: str, number: int, device: str = "cpu") -> Filmed:
    """Render all frames of a room and, for test splits, choose its evaluation entries."""
    room = room_for(source, split, number)
    frames = render_frames(
        room, room.c2w, source.height, source.width, source.texture_texels, source.supersample, device
    )
    entries = {} if split == "train" else room_entries(source, room, device)
    return Filmed(room, frames.cpu(), entries)


def finish(filmed: Filmed, quality: int) -> MadeRoom:
    """Encode the frames and lay the scene out as RealEstate10K does (specs/re10k_format.md section 1)."""
    images = [_jpeg(frame, quality) for frame in filmed.frames]
    timestamps = torch.arange(len(images), dtype=torch.int64) * FRAME_MICROSECONDS
    cameras = camera_rows(filmed.room.c2w, filmed.room.intrinsics)
    return MadeRoom(ChunkScene(filmed.room.key, filmed.room.url, timestamps, cameras, images), filmed.entries)


def make(source: RoomsSource, split: str, number: int) -> MadeRoom:
    """Film and finish a room on the CPU: the whole job of a worker process."""
    return finish(film(source, split, number), source.jpeg_quality)


def _jpeg(frame: UInt8[Tensor, "h w 3"], quality: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(frame.numpy()).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def camera_rows(c2w: Float[Tensor, "n 4 4"], intrinsics: Float[Tensor, " 4"]) -> Float[Tensor, "n 18"]:
    """Return float32 camera vectors: normalised intrinsics, two zeros, the 3x4 world-to-camera matrix."""
    rotation, place = c2w[:, :3, :3].transpose(1, 2), c2w[:, :3, 3:]
    w2c = torch.cat([rotation, -(rotation @ place)], dim=2).reshape(-1, 12)
    lens = torch.cat([intrinsics, intrinsics.new_zeros(2)]).expand(len(c2w), 6)
    return torch.cat([lens, w2c], dim=1).float()
