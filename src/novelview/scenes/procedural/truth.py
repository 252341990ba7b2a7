"""Exact depth of a data set of procedural rooms: what its source says, where its cameras are the rooms' own."""

import functools
import re
from dataclasses import fields
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from novelview.config.sources import RoomsSource
from novelview.files import read_json
from novelview.scenes.procedural.layout import Room, room_for
from novelview.scenes.procedural.rendering import render_depth
from novelview.scenes.store import PackedStore

URL = re.compile(r"novelview://rooms/(train|seen|new|twin)/(\d+)")
SAME_CAMERA = 1e-4  # metres and direction cosines: what float32 and an inversion leave of a camera


class ExactDepth:
    """Exact z-depth, metres, in host memory, of frames of a packed store of procedural rooms; rays on `device`."""

    def __init__(self, source: RoomsSource, store: PackedStore, device: str = "cpu") -> None:
        self.source, self.store, self.device = source, store, device
        self.room = functools.lru_cache(maxsize=4)(self._draw)  # frames of one room are asked for in a row

    def depth(
        self, scene: str, frames: list[int], intrinsics: Float[Tensor, "v 4"], height: int, width: int
    ) -> Float[Tensor, "v h w"]:
        """Return the z-depth at the pixel centres of frames resized to height x width, whose intrinsics are given."""
        room, relative = self.room(scene), intrinsics.double() / intrinsics.new_tensor([width, height] * 2).double()
        poses, found = room.c2w[frames], torch.empty(len(frames), height, width)
        for lens in relative.unique(dim=0):
            same = (relative == lens).all(dim=1)
            found[same] = render_depth(room, poses[same], lens, height, width, self.device).cpu()
        return found

    def _draw(self, scene: str) -> Room:
        found = URL.fullmatch(self.store.url(scene))
        assert found is not None, "the store was checked to be of rooms"
        return room_for(self.source, found[1], int(found[2]))


def exact_depth(raw: Path | str, store: PackedStore, device: str = "cpu") -> tuple[ExactDepth | None, str | None]:
    """Return the exact depth of a split of the data set in `raw`, or None and the reason why there is none."""
    manifest = Path(raw) / "manifest.json"
    content = read_json(manifest) if manifest.is_file() else {}
    source = content.get("source") if isinstance(content, dict) else None
    if isinstance(content, dict) and content.get("poses"):
        return None, "n/a (no exact depth: the cameras are estimated)"
    if not isinstance(source, dict) or source.get("kind") != "rooms":
        return None, "n/a (no exact depth: these are no procedural rooms)"
    known = {field.name for field in fields(RoomsSource)}
    truth = ExactDepth(RoomsSource(**{key: value for key, value in source.items() if key in known}), store, device)
    if any(not URL.fullmatch(store.url(scene)) for scene in store.scenes):
        return None, "n/a (no exact depth: scenes that are no procedural rooms)"
    for scene in store.scenes[:1]:
        own, given = truth.room(scene).c2w, store.c2w(scene).double()
        if given.shape != own.shape or not (given - own).abs().max() < SAME_CAMERA:
            return None, "n/a (no exact depth: the cameras are not the rooms' own)"
    return truth, None
