"""Training samples that depend only on a seed and a position, evaluation samples that each come exactly once.

Training batches are made in the main process, or ahead of it in worker processes, with the same content.
"""

import logging
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from novelview.config.schema import AugmentConfig, ViewsConfig
from novelview.errors import ConfigError, DataError, NovelviewError
from novelview.scenes.batch import Batch, FrameCache, RawBatch, Sample, collate
from novelview.scenes.pointmaps import Pointmaps
from novelview.scenes.samplers import (
    BOUNDED,
    Moment,
    bounded_views,
    contexts_at,
    fewest_frames,
    long_enough,
    random_views,
    select_targets,
    select_views,
)
from novelview.scenes.store import PackedStore, sound_frames
from novelview.scenes.views import EvalEntry

DRAWS = 100  # draws of a scene's views that may meet a damaged frame before another scene is taken
PREFETCH = 4  # batches a worker prepares ahead
SHARED = Path("/dev/shm")  # where batches travel from worker to trainer
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Draw:
    """What a training sample consists of: row of the scene, loaded frames, positions of the targets among them."""

    row: int
    frames: list[int]
    targets: list[int]


class TrainSet:
    """Random samples of a packed store's scenes (specs/uplvsm.md section 9).

    Every sample is a function of `seed` and its position in the endless stream of epochs alone, so a run can start
    anywhere without replaying what came before. Raises ConfigError when no scene is long enough for the sampler,
    DataError when the store is empty.
    """

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
        """Draw from `scenes` of the store (None: all); accum: micro-batches a training step.

        shared: frames are kept in memory that loader processes, forked from this one, share.
        """
        self.store, self.cfg, self.seed, self.accum, self.pointmaps = store, cfg, seed, accum, pointmaps
        self.scenes = list(store.scenes if scenes is None else scenes)
        self.cache = FrameCache(store, cfg, cache_mb, threads, self.scenes if shared else ())
        self.long = [row for row, scene in enumerate(self.scenes) if self._usable(scene)]
        self._order: tuple[int, list[int]] = (-1, [])
        self._check()

    def __len__(self) -> int:
        return len(self.scenes)

    def _usable(self, scene: str) -> bool:
        frames = self.store.frames(scene)
        if not long_enough(frames, self.cfg):
            return False
        return self.cfg.sampler in BOUNDED or frames - len(self.store.bad(scene)) >= self.cfg.num_views

    def _check(self) -> None:
        if not self.scenes:
            raise DataError("the training set has no scenes; run the preprocess stage on a data set with train scenes")
        if self.long:
            if self.cfg.sampler == "interval":  # refuses intervals that cannot hold the views
                select_views(self.store.frames(self.scenes[self.long[0]]), random.Random(0), self.cfg)
            return
        longest = max(self.store.frames(scene) for scene in self.scenes)
        if self.cfg.sampler in BOUNDED:
            raise ConfigError(
                f"views.min_frame_dist={self.cfg.min_frame_dist}: sampler {self.cfg.sampler} needs scenes of "
                f"{fewest_frames(self.cfg)} frames, the longest of {len(self.scenes)} has {longest}; lower it"
            )
        few = longest < self.cfg.num_views or self.cfg.sampler == "random"
        key, limit = ("num_views", longest) if few else ("min_frame_dist", longest - 2)
        raise ConfigError(
            f"views.{key}={getattr(self.cfg, key)}: none of the {len(self.scenes)} training scenes is long enough, "
            f"the longest has {longest} frames; lower views.{key} to {limit} or less"
        )

    def draw(self, row: int, rng: random.Random, moment: Moment | None = None) -> Draw:
        """Draw views and targets of scene `row`, or of a uniformly random other scene when it cannot serve them."""
        for _ in range(DRAWS + 1):
            drawn = self._draw(row, rng, moment or Moment(0, self.cfg.num_context))
            if drawn is not None:
                return drawn
            row = rng.choice(self.long)
        raise DataError("hardly any interval of the training scenes is free of damaged frames; mend the data set")

    def _draw(self, row: int, rng: random.Random, moment: Moment) -> Draw | None:
        cfg, scene = self.cfg, self.scenes[row]
        if cfg.sampler == "random":
            frames = random_views(sound_frames(self.store, scene), rng, cfg)
            return None if frames is None else Draw(row, frames, select_targets(rng, cfg))
        bad = self.store.bad(scene)
        for _ in range(DRAWS):
            if cfg.sampler in BOUNDED:
                picked = bounded_views(self.store.c2w(scene), rng, cfg, moment)
                frames = None if picked is None else [*picked.context, *picked.target]
            else:
                frames = select_views(self.store.frames(scene), rng, cfg)
            if frames is None:
                return None
            if not bad.intersection(frames):
                others = list(range(moment.contexts, len(frames)))
                return Draw(row, frames, others if cfg.sampler in BOUNDED else select_targets(rng, cfg))
        return None

    def item(self, row: int, rng: random.Random) -> Sample:
        """Load all views drawn for scene `row`: the two ends of the interval first, then the views between."""
        draw = self.draw(row, rng)
        return self.cache.sample(self.scenes[draw.row], draw.frames, draw.row)

    def sample_at(self, position: int, group: int) -> Sample:
        """Return the sample at `position` of the stream: contexts first, then targets, augmented.

        `group` scenes are consumed together (processes times batch size); an epoch visits the scenes in a fresh
        random order and drops those left over after the last whole group.
        """
        usable = len(self) // group * group or len(self)
        epoch, place = divmod(position, usable)
        rng = random.Random(f"{self.seed}/{position}")
        number = position // group
        contexts = contexts_at(number, self.seed, self.cfg)
        draw = self.draw(self._epoch(epoch)[place], rng, Moment(number // self.accum, contexts))
        positions = [*range(contexts), *draw.targets]
        sample = self.cache.sample(self.scenes[draw.row], draw.frames, draw.row, positions)
        if self.pointmaps is not None:
            points = self.pointmaps.points(sample.scene, sample.index[:, 0].tolist())
            sample = replace(sample, points=points)
        return augment(sample, self.cfg.augment, contexts, rng)

    def _epoch(self, epoch: int) -> list[int]:
        if self._order[0] != epoch:
            generator = torch.Generator().manual_seed(self.seed + epoch)
            self._order = (epoch, torch.randperm(len(self), generator=generator).tolist())
        return self._order[1]

    def batch(self, number: int, batch_size: int, rank: int = 0, world: int = 1) -> RawBatch:
        """Return micro-batch `number` of process `rank` of `world`, as a round-robin share of the stream."""
        group = batch_size * world
        places = range(number * group + rank, (number + 1) * group, world)
        return collate([self.sample_at(place, group) for place in places], contexts_at(number, self.seed, self.cfg))


def augment(sample: Sample, cfg: AugmentConfig, contexts: int, rng: random.Random) -> Sample:
    """Apply the augmentations switched on in `cfg` to all views alike (demo_budget.md section 5).

    None is on as published. `rng` is asked only for those that are on, so others leave no trace.
    """
    if cfg.mirror and rng.random() < 0.5:
        sample = mirror(sample)
    if cfg.channels:
        sample = replace(sample, images=sample.images[:, rng.sample(range(3), 3)])
    if cfg.swap_context and rng.random() < 0.5:
        sample = sample.take([*reversed(range(contexts)), *range(contexts, len(sample.images))])
    return sample


def mirror(sample: Sample) -> Sample:
    """Return the sample as seen in a mirror: images flipped left to right, the world reflected in x.

    A camera stays a rotation: c2w -> M c2w M with M = diag(-1, 1, 1, 1), cx -> width - cx; a point p -> M p.
    """
    intrinsics = sample.intrinsics.clone()
    intrinsics[:, 2] = sample.images.shape[-1] - intrinsics[:, 2]
    flip = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0]))
    images, c2w = sample.images.flip(-1), flip @ sample.c2w @ flip
    points = None if sample.points is None else sample.points.flip(-1) * torch.tensor([-1.0, 1, 1])[:, None, None]
    return replace(sample, images=images, c2w=c2w, intrinsics=intrinsics, points=points)


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
        """Return the entry numbers of every batch of process `rank`.

        Entries go to processes in turn, without padding; only entries of equal view counts and frame size share a
        batch.
        """
        shapes: dict[tuple[int, ...], list[int]] = {}
        for number in range(rank, len(self), world):
            entry = self.entries[number]
            shape = len(entry.context), len(entry.target), *self.store.size(entry.scene, entry.context[0])
            shapes.setdefault(shape, []).append(number)
        return [
            same[start : start + batch_size] for same in shapes.values() for start in range(0, len(same), batch_size)
        ]

    def load(
        self, groups: Sequence[list[int]], device: torch.device | str = "cpu"
    ) -> Iterator[tuple[list[int], Batch]]:
        """Yield (entry numbers, batch) for some of the groups."""
        for numbers in groups:
            contexts = len(self.entries[numbers[0]].context)
            yield numbers, collate([self.item(number) for number in numbers], contexts).to_batch(device)


def workers_that_fit(workers: int, batch_bytes: int, folder: Path = SHARED) -> int:
    """Return `workers`, or 0 with a warning where their batches do not fit the memory they travel through.

    Containers often have 64 MB of it, and a worker that finds it full is killed by a bus error without a word.
    """
    if not workers or not folder.is_dir():
        return workers
    free, needed = shutil.disk_usage(folder).free, (workers * PREFETCH + 1) * batch_bytes
    if free >= needed:
        return workers
    log.warning(
        "%s has %d MB free and %d loader processes need %d: this process loads the frames itself, which is slower; "
        "give the container more shared memory or set a lower runtime.workers",
        *(folder, free // 2**20, workers, needed // 2**20),
    )
    return 0


class TrainLoader(Dataset[RawBatch | NovelviewError]):
    """Batches of process `rank` of `world` on `device`, prepared by `workers` processes (0: this one).

    A batch depends on the set's seed, its number, `rank`, `world` and `batch_size` alone, never on `workers`.
    """

    def __init__(
        self,
        data: TrainSet,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        workers: int = 0,
    ) -> None:
        self.data, self.batch_size, self.rank, self.world = data, batch_size, rank, world
        self.device, self.workers = torch.device(device), workers

    def __getitem__(self, number: int) -> RawBatch | NovelviewError:
        """Return a micro-batch; errors are values here, since worker processes would wrap them in tracebacks."""
        try:
            return self.data.batch(number, self.batch_size, self.rank, self.world)
        except NovelviewError as error:
            return error

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """Yield micro-batches number `start` to `stop` - 1; raises DataError when frames cannot be read."""
        numbers = range(start, stop)
        for raw in self._ahead(numbers) if self.workers else map(self.__getitem__, numbers):
            if isinstance(raw, NovelviewError):
                raise raw
            yield raw.to_batch(self.device)

    def _ahead(self, numbers: range) -> DataLoader[RawBatch | NovelviewError]:
        return DataLoader(
            self,
            batch_size=None,
            sampler=numbers,
            num_workers=self.workers,
            multiprocessing_context="fork",  # so that the workers share the set's frames
            prefetch_factor=PREFETCH,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=lambda _: torch.set_num_threads(1),
            generator=torch.Generator(),  # the loader must not draw from the generator that training saves
        )
