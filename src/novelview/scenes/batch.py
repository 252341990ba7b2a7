"""From a packed store to the batch that every model receives: resized frames, posed samples, collated batches."""

import mmap
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from novelview.cameras.camera import resize_crop_plan
from novelview.cameras.poses import mean_frame
from novelview.config.schema import ViewsConfig
from novelview.errors import DataError
from novelview.scenes.store import COUNTS, PackedStore

FrameKey = tuple[str, int]  # scene and frame number


@dataclass
class Views:
    """Views of `b` scenes, `v` each; cameras on a rendered path have neither images nor frame numbers."""

    images: Float[Tensor, "b v 3 h w"] | None  # RGB in [0,1]
    c2w: Float[Tensor, "b v 4 4"]  # OpenCV axes (x right, y down, z forward), normalised scene units
    intrinsics: Float[Tensor, "b v 4"]  # fx fy cx cy in pixels of the image as fed to the model
    frame: Int[Tensor, "b v"] | None = None
    points: Float[Tensor, "b v 3 h w"] | None = None  # what a teacher says pixels see, in one world a scene
    masks: Bool[Tensor, "b v h w"] | None = None  # which pixels count in losses and scores; all without

    def take(self, index: Int[Tensor, "b k"]) -> "Views":
        """Select views `index[i]` of scene i."""
        rows = torch.arange(index.shape[0], device=index.device)[:, None]
        return self._map(lambda field: field[rows, index])

    def span(self, start: int, stop: int) -> "Views":
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
    """Loaded views of one scene, as in `Views`; index: frame number, row of the scene or evaluation entry."""

    scene: str
    images: UInt8[Tensor, "v 3 h w"]
    c2w: Float[Tensor, "v 4 4"]
    intrinsics: Float[Tensor, "v 4"]
    index: Int[Tensor, "v 2"]
    points: Float[Tensor, "v 3 h w"] | None = None
    masks: Bool[Tensor, "v h w"] | None = None


class RawBatch(NamedTuple):
    """A batch as it travels to the device: images stay uint8, contexts come first, and only they have points."""

    scene: list[str]
    images: UInt8[Tensor, "b v 3 h w"]
    c2w: Float[Tensor, "b v 4 4"]
    intrinsics: Float[Tensor, "b v 4"]
    frame: Int[Tensor, "b v"]
    contexts: int
    points: Float[Tensor, "b c 3 h w"] | None = None
    masks: Bool[Tensor, "b v h w"] | None = None

    def to_batch(self, device: torch.device | str = "cpu") -> Batch:
        """Move to `device`, bring images to [0,1] and split contexts from targets."""
        images, *others = (field.to(device, non_blocking=True) for field in (self.images, *self[2:5]))
        masks = None if self.masks is None else self.masks.to(device, non_blocking=True)
        views = Views(images.float().div_(255), *others, masks=masks)
        context, target = views.span(0, self.contexts), views.span(self.contexts, views.c2w.shape[1])
        if self.points is not None:
            context = replace(context, points=self.points.to(device, non_blocking=True))
        return Batch(self.scene, context, target)


def collate(samples: Sequence[Sample], contexts: int) -> RawBatch:
    """Stack samples of equal shape. Raises DataError naming two scenes whose frames differ in size."""
    first = samples[0]
    for sample in samples:
        if sample.images.shape != first.images.shape:
            sizes = [f"{one.images.shape[-1]}x{one.images.shape[-2]}" for one in (first, sample)]
            raise DataError(
                f"scenes {first.scene} and {sample.scene} give frames of {' and '.join(sizes)} pixels, "
                "which one batch cannot hold; set views.square_crop=true with views.portrait=fit, or a batch size of 1"
            )
    rows = [(sample.images, sample.c2w, sample.intrinsics, sample.index[:, 0]) for sample in samples]
    images, c2w, intrinsics, frame = (torch.stack(fields) for fields in zip(*rows, strict=True))
    points = [sample.points[:contexts] for sample in samples if sample.points is not None]
    names = [sample.scene for sample in samples]
    masks = None
    if any(sample.masks is not None for sample in samples):
        every = torch.ones(images.shape[1], *images.shape[-2:], dtype=torch.bool)
        masks = torch.stack([every if sample.masks is None else sample.masks for sample in samples])
    return RawBatch(names, images, c2w, intrinsics, frame, contexts, torch.stack(points) if points else None, masks)


class FrameCache:
    """Resized frames, up to `megabytes` kept in memory; those of `shared` scenes, of one size, in that of forks too."""

    def __init__(
        self, store: PackedStore, cfg: ViewsConfig, megabytes: int, threads: int = 1, shared: Sequence[str] = ()
    ) -> None:
        self.store, self.cfg, room = store, cfg, megabytes * 2**20
        self.memory: OwnFrames | SharedFrames = OwnFrames(room)
        if shared:
            plan = resize_crop_plan(*store.size(shared[0]), cfg)
            counts = [(scene, store.frames(scene)) for scene in shared]
            self.memory = SharedFrames(counts, plan.out_h, plan.out_w, room)
        self.map = ThreadPoolExecutor(threads).map if threads > 1 else map  # threads cannot be pickled

    def frames(self, scene: str, numbers: Sequence[int]) -> list[UInt8[Tensor, "3 h w"]]:
        """Return frames of `scene`, resized and cropped for the network."""

        def decode(number: int) -> UInt8[Tensor, "3 h w"]:
            return resize_crop_plan(*self.store.size(scene, number), self.cfg).image(self.store.image(scene, number))

        images: dict[int, Any] = {number: self.memory.find((scene, number)) for number in numbers}
        missing = [number for number, image in images.items() if image is None]
        for number, image in zip(missing, self.map(decode, missing), strict=True):
            images[number] = image
            self.memory.keep((scene, number), image)
        return [images[number] for number in numbers]

    def masks(self, scene: str, numbers: Sequence[int]) -> Bool[Tensor, "v h w"] | None:
        """Return which pixels of frames count, None where all do; resized and cropped as the frames are."""
        found = {number: mask for number in numbers if (mask := self.store.mask(scene, number))}
        plans = [resize_crop_plan(*self.store.size(scene, number), self.cfg) for number in numbers]
        return (
            torch.stack(
                [
                    plan.image(found[number])[0] >= COUNTS
                    if number in found
                    else torch.ones(plan.out_h, plan.out_w).bool()
                    for number, plan in zip(numbers, plans, strict=True)
                ]
            )
            if found
            else None
        )

    def posed(self, scene: str, frames: Sequence[int]) -> tuple[Float[Tensor, "v 4 4"], Float[Tensor, "v 4"]]:
        """Return camera-to-world matrices, normalised over `frames` if so configured, and network-pixel intrinsics."""
        rows = torch.as_tensor(frames)
        c2w = self.store.c2w(scene)[rows]
        if self.cfg.pose_normalisation == "scene":
            c2w = mean_frame(c2w, self.cfg.scene_scale_factor).transform(c2w)
        lenses = []
        for frame, relative in zip(frames, self.store.intrinsics(scene)[rows].double(), strict=True):
            height, width = self.store.size(scene, frame)
            plan = resize_crop_plan(height, width, self.cfg)
            lenses.append(plan.intrinsics(relative * torch.tensor([width, height] * 2)).float())
        return c2w, torch.stack(lenses)

    def sample(self, scene: str, frames: Sequence[int], row: int, positions: Sequence[int] | None = None) -> Sample:
        """Load `frames` of `scene`; with `positions` only those of them, their poses still normalised over all."""
        wanted = list(range(len(frames)) if positions is None else positions)
        numbers = [frames[position] for position in wanted]
        c2w, intrinsics = self.posed(scene, frames)
        images = self.frames(scene, numbers)
        if len({image.shape for image in images}) > 1:
            raise DataError(f"scene {scene}: its frames differ in size after resizing; set views.square_crop=true")
        index = torch.tensor([[number, row] for number in numbers])
        masks = self.masks(scene, numbers)
        return Sample(scene, torch.stack(images), c2w[wanted], intrinsics[wanted], index, masks=masks)


class OwnFrames:
    """Frames of this process, up to `room` bytes; in an epoch's random order it would not pay to evict any."""

    def __init__(self, room: int) -> None:
        self.room, self.frames = room, dict[FrameKey, Tensor]()
        self.find = self.frames.get

    def keep(self, key: FrameKey, image: UInt8[Tensor, "3 h w"]) -> None:
        if self.room >= image.nbytes:
            self.room -= image.nbytes
            self.frames[key] = image


class SharedFrames:
    """Frames of one size in memory shared with forked processes; two that decode one write the same bytes."""

    def __init__(self, scenes: Sequence[tuple[str, int]], height: int, width: int, room: int) -> None:
        self.shape, size = (3, height, width), 3 * height * width
        *starts, total = accumulate((count for _, count in scenes), initial=0)
        self.first = {name: start for (name, _), start in zip(scenes, starts, strict=True)}
        self.places = min(room // size, total)
        # Anonymous and shared; /dev/shm, which containers keep small, is not involved.
        memory, marks = (mmap.mmap(-1, max(count, 1)) for count in (self.places * size, self.places))
        self.pixels = torch.frombuffer(memory, dtype=torch.uint8)[: self.places * size].view(self.places, *self.shape)
        self.there = torch.frombuffer(marks, dtype=torch.uint8)[: self.places]

    def find(self, key: FrameKey) -> UInt8[Tensor, "3 h w"] | None:
        place = self._place(key)
        return self.pixels[place] if place is not None and self.there[place] else None

    def keep(self, key: FrameKey, image: UInt8[Tensor, "3 h w"]) -> None:
        place = self._place(key)
        if place is not None and image.shape == self.shape:
            self.pixels[place] = image
            self.there[place] = 1  # only after the frame has been written

    def _place(self, key: FrameKey) -> int | None:
        place = self.first.get(key[0], self.places) + key[1]
        return place if place < self.places else None
