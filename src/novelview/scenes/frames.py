"""From a packed store to tensors: decoded and resized frames with a bounded cache, posed samples, collated batches."""

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float, Int, UInt8
from PIL.Image import Image
from torch import Tensor

from novelview.cameras.camera import resize_crop_plan
from novelview.cameras.poses import normalise_poses
from novelview.config.schema import ViewsConfig
from novelview.errors import DataError
from novelview.scenes.batch import Batch, Views
from novelview.scenes.kept import Kept, OwnFrames, SharedFrames


class Store(Protocol):
    """What samples need of a packed store (`novelview.scenes.pack.PackedStore`)."""

    @property
    def scenes(self) -> Sequence[str]: ...

    def frames(self, scene: str) -> int: ...

    def image(self, scene: str, index: int, /) -> Image: ...

    def c2w(self, scene: str) -> Float[Tensor, "n 4 4"]: ...

    def intrinsics(self, scene: str) -> Float[Tensor, "n 4"]: ...

    def size(self, scene: str, index: int | None = None, /) -> tuple[int, int]: ...

    def bad(self, scene: str) -> Collection[int]: ...


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


class FrameCache:
    """Resized frames of a store as uint8 tensors, kept in memory up to `megabytes` (`novelview.scenes.kept`)."""

    def __init__(
        self, store: Store, cfg: ViewsConfig, megabytes: int, threads: int = 1, shared: Sequence[str] = ()
    ) -> None:
        """Decode with `threads` threads; more than one make the cache unfit for travelling to another process.

        shared: scenes whose frames are kept in memory that forked processes share, all scenes of one frame size.
        """
        self.store, self.cfg = store, cfg
        self.kept: Kept = self._shared(shared, megabytes * 2**20) if shared else OwnFrames(megabytes * 2**20)
        self.pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def frames(self, scene: str, numbers: Sequence[int]) -> list[UInt8[Tensor, "3 h w"]]:
        """Return frames of `scene`, resized and cropped for the network."""
        found = {number: self.kept.find((scene, number)) for number in numbers}
        missing = [number for number, image in found.items() if image is None]
        decode = self.pool.map if self.pool else map
        fresh = dict(zip(missing, decode(lambda number: self._decoded(scene, number), missing), strict=True))
        for number, image in fresh.items():
            self.kept.keep((scene, number), image)
        images = {number: image for number, image in found.items() if image is not None} | fresh
        return [images[number] for number in numbers]

    def _shared(self, scenes: Sequence[str], room: int) -> SharedFrames:
        plan = resize_crop_plan(*self.store.size(scenes[0]), self.cfg)
        return SharedFrames([(scene, self.store.frames(scene)) for scene in scenes], plan.out_h, plan.out_w, room)

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
        images = self._stack(scene, self.frames(scene, numbers))
        index = torch.tensor([[number, row] for number in numbers])
        return Sample(scene, images, c2w[wanted], intrinsics[wanted], index)

    def _stack(self, scene: str, images: list[Tensor]) -> Tensor:
        if len({image.shape for image in images}) > 1:
            raise DataError(f"scene {scene}: its frames differ in size after resizing; set views.square_crop=true")
        return torch.stack(images)


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
        moved: list[Any] = [
            field.to(device, non_blocking=True) for field in (self.images, self.c2w, self.intrinsics, self.frame)
        ]
        views = Views(moved[0].float().div_(255), *moved[1:])
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
    return RawBatch(
        [sample.scene for sample in samples],
        torch.stack([sample.images for sample in samples]),
        torch.stack([sample.c2w for sample in samples]),
        torch.stack([sample.intrinsics for sample in samples]),
        torch.stack([sample.index[:, 0] for sample in samples]),
        contexts,
        _points(samples, contexts),
    )


def _points(samples: Sequence[Sample], contexts: int) -> Float[Tensor, "b c 3 h w"] | None:
    given = [sample.points[:contexts] for sample in samples if sample.points is not None]
    return torch.stack(given) if given else None


def _size(sample: Sample) -> str:
    return f"{sample.images.shape[-1]}x{sample.images.shape[-2]}"
