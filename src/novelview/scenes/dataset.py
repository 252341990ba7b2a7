"""Training samples that depend only on a seed and a position, evaluation samples that each come exactly once."""

import logging
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from novelview.config.schema import AugmentConfig, ViewsConfig
from novelview.errors import ConfigError, DataError, NovelviewError
from novelview.scenes import samplers
from novelview.scenes.batch import Batch, FrameCache, RawBatch, Sample, collate
from novelview.scenes.pointmaps import Pointmaps
from novelview.scenes.samplers import BOUNDED
from novelview.scenes.store import PackedStore, sound_frames
from novelview.scenes.views import EvalEntry

DRAWS = 100  # draws of a scene's views that may meet a damaged frame before another scene is taken
PREFETCH = 4  # batches a worker prepares ahead
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Draw:
    """What a training sample consists of: row of the scene, loaded frames, positions of the targets among them."""

    row: int
    frames: list[int]
    targets: list[int]


class TrainSet:
    """Random samples, functions of `seed` and position alone; ConfigError where no scene is long enough to draw."""

    def __init__(
        self,
        store: PackedStore,
        cfg: ViewsConfig,
        seed: int = 0,
        cache_mb: int = 512,
        scenes: Sequence[str] | None = None,
        threads: int = 1,
        accum: int = 1,
        pointmaps: Pointmaps | None = None,
        shared: bool = False,
    ) -> None:
        """Draw from `scenes` (None: all); accum: micro-batches a step; shared: forked processes share the frames."""
        self.store, self.cfg, self.seed, self.accum, self.pointmaps = store, cfg, seed, accum, pointmaps
        self.scenes = list(store.scenes if scenes is None else scenes)
        self.cache = FrameCache(store, cfg, cache_mb, threads, self.scenes if shared else ())
        sizes = [(store.frames(scene), len(store.bad(scene))) for scene in self.scenes]
        self.long = [row for row, size in enumerate(sizes) if samplers.long_enough(*size, cfg)]
        self._order: tuple[int, list[int]] = (-1, [])
        if not self.scenes:
            raise DataError("the training set has no scenes; run the preprocess stage on a data set with train scenes")
        if self.long and cfg.sampler == "interval":  # refuses intervals that cannot hold the views
            samplers.select_views(sizes[self.long[0]][0], random.Random(0), cfg)
        if not self.long:
            raise ConfigError(self._too_short(max(sizes)[0]))

    def __len__(self) -> int:
        return len(self.scenes)

    def _too_short(self, longest: int) -> str:
        cfg, count = self.cfg, len(self.scenes)
        if cfg.sampler in BOUNDED:
            return (
                f"views.min_frame_dist={cfg.min_frame_dist}: sampler {cfg.sampler} needs scenes of "
                f"{samplers.fewest_frames(cfg)} frames, the longest of {count} has {longest}; lower it"
            )
        few = longest < cfg.num_views or cfg.sampler == "random"
        key, limit = ("num_views", longest) if few else ("min_frame_dist", longest - 2)
        return (
            f"views.{key}={getattr(cfg, key)}: none of the {count} training scenes is long enough, "
            f"the longest has {longest} frames; lower views.{key} to {limit} or less"
        )

    def draw(self, row: int, rng: random.Random, step: int = 0, contexts: int = 0) -> Draw:
        """Draw views and targets of a scene, or of a random other one; step: 0-based; contexts: 0 for `num_context`."""
        for _ in range(DRAWS + 1):
            drawn = self._draw(row, rng, step, contexts or self.cfg.num_context)
            if drawn is not None:
                return drawn
            row = rng.choice(self.long)
        raise DataError("hardly any interval of the training scenes is free of damaged frames; mend the data set")

    def _draw(self, row: int, rng: random.Random, step: int, contexts: int) -> Draw | None:
        cfg, scene = self.cfg, self.scenes[row]
        bad = self.store.bad(scene)
        for _ in range(DRAWS):
            if cfg.sampler == "random":
                sound = sound_frames(self.store, scene)
                frames = rng.sample(sound, cfg.num_views) if len(sound) >= cfg.num_views else None
            elif cfg.sampler in BOUNDED:
                frames = samplers.bounded_views(self.store.c2w(scene), rng, cfg, step, contexts)
            else:
                frames = samplers.select_views(self.store.frames(scene), rng, cfg)
            if frames is None:
                return None
            if not bad.intersection(frames):
                others = list(range(contexts, len(frames)))
                return Draw(row, frames, others if cfg.sampler in BOUNDED else samplers.select_targets(rng, cfg))
        return None

    def sample_at(self, position: int, group: int) -> Sample:
        """Return the sample at `position` of the stream: contexts first; group: batch of all processes."""
        epoch, place = divmod(position, len(self) // group * group or len(self))
        rng, number = random.Random(f"{self.seed}/{position}"), position // group
        contexts = samplers.contexts_at(number, self.seed, self.cfg)
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(self.seed + epoch)
            self._order = (epoch, torch.randperm(len(self), generator=generator).tolist())
        draw = self.draw(self._order[1][place], rng, number // self.accum, contexts)
        sample = self.cache.sample(self.scenes[draw.row], draw.frames, draw.row, [*range(contexts), *draw.targets])
        if self.pointmaps is not None:
            sample = replace(sample, points=self.pointmaps.points(sample.scene, sample.index[:, 0].tolist()))
        return augment(sample, self.cfg.augment, contexts, rng)

    def batch(self, number: int, batch_size: int, rank: int = 0, world: int = 1) -> RawBatch:
        """Return micro-batch `number` of process `rank` of `world`, as a round-robin share of the stream."""
        group = batch_size * world
        samples = [self.sample_at(place, group) for place in range(number * group + rank, (number + 1) * group, world)]
        return collate(samples, samplers.contexts_at(number, self.seed, self.cfg))


def augment(sample: Sample, cfg: AugmentConfig, contexts: int, rng: random.Random) -> Sample:
    """Apply the augmentations switched on in `cfg` (published: none) to all views; `rng` is asked for no other."""
    if cfg.mirror and rng.random() < 0.5:
        sample = mirror(sample)
    if cfg.channels:
        sample = replace(sample, images=sample.images[:, rng.sample(range(3), 3)])
    if cfg.swap_context and rng.random() < 0.5:
        order = [*reversed(range(contexts)), *range(contexts, len(sample.images))]
        fields = {name: value[order] for name, value in vars(sample).items() if isinstance(value, Tensor)}
        sample = replace(sample, **fields)
    return sample


def mirror(sample: Sample) -> Sample:
    """Return the sample as seen in a mirror: c2w -> M c2w M with M = diag(-1, 1, 1, 1), cx -> width - cx; p -> M p."""
    intrinsics = sample.intrinsics.clone()
    intrinsics[:, 2] = sample.images.shape[-1] - intrinsics[:, 2]
    flip = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))
    images, c2w = sample.images.flip(-1), flip @ sample.c2w @ flip
    points = None if sample.points is None else sample.points.flip(-1) * torch.tensor([-1.0, 1, 1])[:, None, None]
    masks = None if sample.masks is None else sample.masks.flip(-1)
    return replace(sample, images=images, c2w=c2w, intrinsics=intrinsics, points=points, masks=masks)


class EvalSet:
    """The entries of an evaluation index as samples: context views first, then targets, each entry exactly once."""

    def __init__(self, store: PackedStore, entries: Sequence[EvalEntry], cfg: ViewsConfig, cache_mb: int = 0) -> None:
        self.store, self.entries, self.cfg = store, list(entries), cfg
        self.cache = FrameCache(store, cfg, cache_mb)

    def __len__(self) -> int:
        return len(self.entries)

    def item(self, number: int) -> Sample:
        """Load entry `number`; poses are normalised over its context and target views."""
        entry = self.entries[number]
        return self.cache.sample(entry.scene, [*entry.context, *entry.target], number)

    def groups(self, batch_size: int, rank: int = 0, world: int = 1) -> list[list[int]]:
        """Return the entry numbers of every batch of process `rank`, each of equal view counts and frame size."""
        shapes: dict[tuple[int, ...], list[int]] = {}
        for number in range(rank, len(self), world):
            entry = self.entries[number]
            shape = len(entry.context), len(entry.target), *self.store.size(entry.scene, entry.context[0])
            shapes.setdefault(shape, []).append(number)
        return [same[at : at + batch_size] for same in shapes.values() for at in range(0, len(same), batch_size)]

    def load(self, groups: Sequence[list[int]], device: torch.device | str) -> Iterator[tuple[list[int], Batch]]:
        for numbers in groups:
            contexts = len(self.entries[numbers[0]].context)
            yield numbers, collate([self.item(number) for number in numbers], contexts).to_batch(device)


def workers_that_fit(workers: int, batch_bytes: int, folder: Path = Path("/dev/shm")) -> int:
    """Return `workers`, or 0 where their batches overfill shared memory: a bus error would kill them silently."""
    needed = (workers * PREFETCH + 1) * batch_bytes
    if not workers or not folder.is_dir() or (free := shutil.disk_usage(folder).free) >= needed:
        return workers
    log.warning(
        "%s has %d MB free and %d loader processes need %d: this process loads the frames itself, which is slower; "
        "give the container more shared memory or set a lower runtime.workers",
        *(folder, free // 2**20, workers, needed // 2**20),
    )
    return 0


@dataclass(eq=False)
class TrainLoader(Dataset[RawBatch | NovelviewError]):
    """Batches of process `rank` of `world` on `device`, the same for any number of `workers` (0: this process)."""

    data: TrainSet
    batch_size: int
    rank: int = 0
    world: int = 1
    device: torch.device | str = "cpu"
    workers: int = 0

    def __getitem__(self, number: int) -> RawBatch | NovelviewError:
        """Return a micro-batch; errors are values here, since worker processes would wrap them in tracebacks."""
        try:
            return self.data.batch(number, self.batch_size, self.rank, self.world)
        except NovelviewError as error:
            return error

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """Yield micro-batches number `start` to `stop` - 1; raises DataError when frames cannot be read."""
        found = map(self.__getitem__, range(start, stop))
        if self.workers:
            # Forked workers share the set's frames; a generator of its own: that of the training is saved.
            options: dict[str, Any] = {"multiprocessing_context": "fork", "generator": torch.Generator()}
            options |= {"num_workers": self.workers, "prefetch_factor": PREFETCH, "sampler": range(start, stop)}
            options |= {"pin_memory": torch.device(self.device).type == "cuda", "batch_size": None}
            found = DataLoader(self, worker_init_fn=lambda _: torch.set_num_threads(1), **options)
        for raw in found:
            if isinstance(raw, NovelviewError):
                raise raw
            yield raw.to_batch(self.device)
