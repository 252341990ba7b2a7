"""From a packed store to the batch that every model receives: resized frames, posed samples, collated batches."""

import mmap
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from novelview.cameras.camera import resize_crop_plan
from novelview.cameras.poses import normalise_poses
from novelview.config.schema import ViewsConfig
from novelview.errors import DataError
from novelview.scenes.store import PackedStore

FrameKey = tuple[str, int]  # scene and frame number


@dataclass
class Views:
    """Views of `b` scenes, `v` each.

    images: [b v 3 h w], RGB in [0,1]; None for cameras without a picture (a rendered path).
    c2w: [b v 4 4], OpenCV camera-to-world (x right, y down, z forward), normalised scene units.
    intrinsics: [b v 4], fx fy cx cy in pixels of the image as fed to the model.
    frame: [b v], frame number in the scene; None for cameras on a path.
    points: [b v 3 h w], what a teacher says every pixel sees: points of a world that the views of a scene share, which
    need not be that of c2w; None where no loss asks for them.
    """

    images: Float[Tensor, "b v 3 h w"] | None
    c2w: Float[Tensor, "b v 4 4"]
    intrinsics: Float[Tensor, "b v 4"]
    frame: Int[Tensor, "b v"] | None = None
    points: Float[Tensor, "b v 3 h w"] | None = None

    def take(self, index: Int[Tensor, "b k"]) -> "Views":
        """Select views `index[i]` of scene i."""
        rows = torch.arange(index.shape[0], device=index.device)[:, None]
        return self._map(lambda field: field[rows, index])

    def span(self, start: int, stop: int) -> "Views":
        """Select views start..stop of every scene."""
        return self._map(lambda field: field[:, start:stop])

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Views":
        return Views(*(None if field is None else function(field) for field in vars(self).values()))  # type: ignore[arg-type]


@dataclass
class Batch:
    """Context and target views of `b` scenes with the scenes' names."""

    scene: list[str]
    context: Views
    target: Views


@dataclass
class Sample:
    """Loaded views of one scene.

    images: [v 3 h w] uint8 RGB; c2w: [v 4 4] normalised over the views of the sample; intrinsics: [v 4] fx fy cx cy in
    pixels of `images`; index: [v 2], frame number and row of the scene (or evaluation entry) in its set. points:
    [v 3 h w] of a teacher (`novelview.scenes.pointmaps`), where a loss asks for them.
    """

    scene: str
    images: UInt8[Tensor, "v 3 h w"]
    c2w: Float[Tensor, "v 4 4"]
    intrinsics: Float[Tensor, "v 4"]
    index: Int[Tensor, "v 2"]
    points: Float[Tensor, "v 3 h w"] | None = None

    def take(self, positions: Sequence[int]) -> "Sample":
        """Select views by position."""
        rows = torch.as_tensor(positions)
        points = None if self.points is None else self.points[rows]
        return Sample(self.scene, self.images[rows], self.c2w[rows], self.intrinsics[rows], self.index[rows], points)


class RawBatch(NamedTuple):
    """A batch as it travels between processes and to the device: images stay uint8, contexts come first.

    points: those of the context views alone.
    """

    scene: list[str]
    images: UInt8[Tensor, "b v 3 h w"]
    c2w: Float[Tensor, "b v 4 4"]
    intrinsics: Float[Tensor, "b v 4"]
    frame: Int[Tensor, "b v"]
    contexts: int
    points: Float[Tensor, "b c 3 h w"] | None = None

    def to_batch(self, device: torch.device | str = "cpu") -> Batch:
        """Move to `device`, bring images to [0,1] and split contexts from targets."""
        sent = self.images, self.c2w, self.intrinsics, self.frame
        images, *others = (field.to(device, non_blocking=True) for field in sent)
        views = Views(images.float().div_(255), *others)
        context, target = views.span(0, self.contexts), views.span(self.contexts, views.c2w.shape[1])
        if self.points is not None:
            context = replace(context, points=self.points.to(device, non_blocking=True))
        return Batch(self.scene, context, target)


def collate(samples: Sequence[Sample], contexts: int) -> RawBatch:
    """Stack samples of equal shape. Raises DataError naming two scenes whose frames differ in size."""
    first = samples[0]
    for sample in samples:
        if sample.images.shape != first.images.shape:
            raise DataError(
                f"scenes {first.scene} and {sample.scene} give frames of {_size(first)} and {_size(sample)} pixels, "
                "which one batch cannot hold; set views.square_crop=true with views.portrait=fit, or a batch size of 1"
            )
    points = [sample.points[:contexts] for sample in samples if sample.points is not None]
    return RawBatch(
        [sample.scene for sample in samples],
        torch.stack([sample.images for sample in samples]),
        torch.stack([sample.c2w for sample in samples]),
        torch.stack([sample.intrinsics for sample in samples]),
        torch.stack([sample.index[:, 0] for sample in samples]),
        contexts,
        torch.stack(points) if points else None,
    )


def _size(sample: Sample) -> str:
    return f"{sample.images.shape[-1]}x{sample.images.shape[-2]}"


class FrameCache:
    """Resized frames of a store as uint8 tensors, of which up to `megabytes` stay in memory between epochs."""

    def __init__(
        self, store: PackedStore, cfg: ViewsConfig, megabytes: int, threads: int = 1, shared: Sequence[str] = ()
    ) -> None:
        """Decode with `threads` threads; more than one make the cache unfit for travelling to another process.

        shared: scenes whose frames are kept in memory that forked processes share, all scenes of one frame size.
        """
        self.store, self.cfg = store, cfg
        room = megabytes * 2**20
        self.memory: OwnFrames | SharedFrames = OwnFrames(room)
        if shared:
            plan = resize_crop_plan(*store.size(shared[0]), cfg)
            counts = [(scene, store.frames(scene)) for scene in shared]
            self.memory = SharedFrames(counts, plan.out_h, plan.out_w, room)
        self.pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def frames(self, scene: str, numbers: Sequence[int]) -> list[UInt8[Tensor, "3 h w"]]:
        """Return frames of `scene`, resized and cropped for the network."""
        images: dict[int, Any] = {number: self.memory.find((scene, number)) for number in numbers}
        missing = [number for number, image in images.items() if image is None]
        decode = self.pool.map if self.pool else map
        for number, image in zip(missing, decode(lambda number: self._decoded(scene, number), missing), strict=True):
            images[number] = image
            self.memory.keep((scene, number), image)
        return [images[number] for number in numbers]

    def _decoded(self, scene: str, number: int) -> UInt8[Tensor, "3 h w"]:
        plan = resize_crop_plan(*self.store.size(scene, number), self.cfg)
        return plan.image(self.store.image(scene, number))

    def posed(self, scene: str, frames: Sequence[int]) -> tuple[Float[Tensor, "v 4 4"], Float[Tensor, "v 4"]]:
        """Return camera-to-world matrices, normalised over `frames` if so configured, and network-pixel intrinsics."""
        rows = torch.as_tensor(frames)
        c2w = self.store.c2w(scene)[rows]
        if self.cfg.pose_normalisation == "scene":
            c2w = normalise_poses(c2w, self.cfg.scene_scale_factor)
        relative = self.store.intrinsics(scene)[rows].double()
        intrinsics = torch.empty(len(frames), 4)
        sizes = [self.store.size(scene, frame) for frame in frames]
        for size in set(sizes):
            same = [number for number, other in enumerate(sizes) if other == size]
            pixels = relative[same] * torch.tensor([size[1], size[0], size[1], size[0]])
            intrinsics[same] = resize_crop_plan(*size, self.cfg).intrinsics(pixels).float()
        return c2w, intrinsics

    def sample(self, scene: str, frames: Sequence[int], row: int, positions: Sequence[int] | None = None) -> Sample:
        """Load `frames` of `scene`; with `positions` only those of them, their poses still normalised over all."""
        wanted = list(range(len(frames))) if positions is None else list(positions)
        c2w, intrinsics = self.posed(scene, frames)
        numbers = [frames[position] for position in wanted]
        images = self.frames(scene, numbers)
        if len({image.shape for image in images}) > 1:
            raise DataError(f"scene {scene}: its frames differ in size after resizing; set views.square_crop=true")
        index = torch.tensor([[number, row] for number in numbers])
        return Sample(scene, torch.stack(images), c2w[wanted], intrinsics[wanted], index)


class OwnFrames:
    """Frames of this process, up to `room` bytes. None is ever evicted.

    Epochs visit every scene once in random order, where replacing the least recently used frame would throw frames out
    just before their next use.
    """

    def __init__(self, room: int) -> None:
        self.room = room
        self.frames: dict[FrameKey, Tensor] = {}

    def find(self, key: FrameKey) -> UInt8[Tensor, "3 h w"] | None:
        """Return a kept frame, None where there is none."""
        return self.frames.get(key)

    def keep(self, key: FrameKey, image: UInt8[Tensor, "3 h w"]) -> None:
        """Keep a frame if there is room for it."""
        if self.room >= image.nbytes:
            self.room -= image.nbytes
            self.frames[key] = image


class SharedFrames:
    """Frames of one size in memory that processes forked from this one share: each is decoded once for all of them.

    scenes: (name, number of frames) in the order in which places are given out, up to `room` bytes; frames without a
    place or of another size are not kept. Pages are taken from the system as they are filled. Two processes that decode
    the same frame at once write the same bytes, and a frame is marked as there only after it has been written.
    """

    def __init__(self, scenes: Sequence[tuple[str, int]], height: int, width: int, room: int) -> None:
        self.shape = (3, height, width)
        size = 3 * height * width
        self.first: dict[str, int] = {}
        total = 0
        for name, count in scenes:
            self.first[name] = total
            total += count
        self.places = min(room // size, total)
        # Anonymous and shared; /dev/shm, which containers keep small, is not involved.
        memory, marks = (mmap.mmap(-1, max(count, 1)) for count in (self.places * size, self.places))
        self.pixels = torch.frombuffer(memory, dtype=torch.uint8)[: self.places * size].view(self.places, *self.shape)
        self.there = torch.frombuffer(marks, dtype=torch.uint8)[: self.places]

    def find(self, key: FrameKey) -> UInt8[Tensor, "3 h w"] | None:
        """Return a kept frame, a view of the shared memory, None where it is not there yet."""
        place = self._place(key)
        return self.pixels[place] if place is not None and self.there[place] else None

    def keep(self, key: FrameKey, image: UInt8[Tensor, "3 h w"]) -> None:
        """Keep a frame that has a place."""
        place = self._place(key)
        if place is not None and image.shape == self.shape:
            self.pixels[place] = image
            self.there[place] = 1

    def _place(self, key: FrameKey) -> int | None:
        first = self.first.get(key[0])
        place = self.places if first is None else first + key[1]
        return place if place < self.places else None
