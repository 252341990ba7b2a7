"""Training samples that depend only on a seed and a position, and evaluation samples that each come exactly once."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from novelview.config.schema import ViewsConfig
from novelview.errors import ConfigError, DataError
from novelview.scenes.augment import augment
from novelview.scenes.batch import Batch
from novelview.scenes.bounded import SAMPLERS, Moment, contexts_at, fewest_frames, pick, sound
from novelview.scenes.frames import FrameCache, RawBatch, Sample, Store, collate
from novelview.scenes.pointmaps import Pointmaps
from novelview.scenes.views import EvalEntry, long_enough, random_views, select_targets, select_views

DRAWS = 100  # draws of a scene's views that may meet a damaged frame before another scene is taken


@dataclass(frozen=True)
class Draw:
    """What a training sample consists of: row of the scene, loaded frames, positions of the targets among them."""

    row: int
    frames: list[int]
    targets: list[int]

    def positions(self, contexts: int) -> list[int]:
        """Return the places of the sample's views among `frames`: contexts, then targets."""
        return [*range(contexts), *self.targets]


class TrainSet:
    """Random samples of a packed store's scenes (specs/uplvsm.md section 9).

    Every sample is a function of `seed` and its position in the endless stream of epochs alone, so a run can start
    anywhere without replaying what came before. Raises ConfigError when no scene is long enough for the sampler,
    DataError when the store is empty.
    """

    def __init__(
        self,
        store: Store,
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
        self.pointmaps = pointmaps
        self.store, self.cfg, self.seed, self.accum = store, cfg, seed, accum
        self.scenes = list(store.scenes if scenes is None else scenes)
        self.cache = FrameCache(store, cfg, cache_mb, threads, self.scenes if shared else ())
        self.long = [row for row, scene in enumerate(self.scenes) if self._sound_frames(scene)]
        self._order: tuple[int, list[int]] = (-1, [])
        self._check()

    def __len__(self) -> int:
        return len(self.scenes)

    def _sound_frames(self, scene: str) -> bool:
        frames = self.store.frames(scene)
        if self.cfg.sampler in SAMPLERS:
            return long_enough(frames, self.cfg)
        return long_enough(frames, self.cfg) and frames - len(self.store.bad(scene)) >= self.cfg.num_views

    def _check(self) -> None:
        if not self.scenes:
            raise DataError("the training set has no scenes; run the preprocess stage on a data set with train scenes")
        if self.long and self.cfg.sampler != "interval":
            return
        if self.long:
            select_views(self.store.frames(self.scenes[self.long[0]]), random.Random(0), self.cfg)  # refuses bad ranges
            return
        longest = max(self.store.frames(scene) for scene in self.scenes)
        if self.cfg.sampler in SAMPLERS:
            raise ConfigError(
                f"views.min_frame_dist={self.cfg.min_frame_dist}: sampler {self.cfg.sampler} needs scenes of "
                f"{fewest_frames(self.cfg)} frames, the longest of {len(self.scenes)} has {longest}; lower it"
            )
        few = longest < self.cfg.num_views or self.cfg.sampler == "random"
        key = "num_views" if few else "min_frame_dist"
        limit = longest if key == "num_views" else longest - 2
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
        if self.cfg.sampler in SAMPLERS:
            return self._bounded(row, rng, moment)
        views = self._views(row, rng)
        return None if views is None else Draw(row, views, select_targets(rng, self.cfg))

    def _bounded(self, row: int, rng: random.Random, moment: Moment) -> Draw | None:
        scene = self.scenes[row]
        c2w, bad = self.store.c2w(scene), set(self.store.bad(scene))
        for _ in range(DRAWS):
            picked = pick(c2w, rng, self.cfg, moment)
            if picked is None:
                return None
            if sound(picked, bad):
                count = len(picked.context)
                return Draw(row, [*picked.context, *picked.target], list(range(count, count + len(picked.target))))
        return None

    def _views(self, row: int, rng: random.Random) -> list[int] | None:
        scene = self.scenes[row]
        bad = set(self.store.bad(scene))
        if self.cfg.sampler == "random":
            sound = [frame for frame in range(self.store.frames(scene)) if frame not in bad]
            return random_views(sound, rng, self.cfg)
        for _ in range(DRAWS):
            views = select_views(self.store.frames(scene), rng, self.cfg)
            if views is None or not bad.intersection(views):
                return views
        return None

    def item(self, row: int, rng: random.Random) -> Sample:
        """Load all views drawn for scene `row`: the two ends of the interval first, then the views between."""
        draw = self.draw(row, rng)
        return self.cache.sample(self.scenes[draw.row], draw.frames, draw.row)

    def at(self, position: int, group: int) -> Sample:
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
        sample = self.cache.sample(self.scenes[draw.row], draw.frames, draw.row, draw.positions(contexts))
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
        return collate([self.at(place, group) for place in places], contexts_at(number, self.seed, self.cfg))


class EvalSet:
    """The entries of an evaluation index as samples: context views first, then targets, each entry exactly once."""

    def __init__(self, store: Store, entries: Sequence[EvalEntry], cfg: ViewsConfig, cache_mb: int = 0) -> None:
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
            shapes.setdefault(self._shape(self.entries[number]), []).append(number)
        return [
            same[start : start + batch_size] for same in shapes.values() for start in range(0, len(same), batch_size)
        ]

    def _shape(self, entry: EvalEntry) -> tuple[int, ...]:
        return len(entry.context), len(entry.target), *self.store.size(entry.scene, entry.context[0])

    def batches(
        self, batch_size: int, rank: int = 0, world: int = 1, device: torch.device | str = "cpu"
    ) -> Iterator[tuple[list[int], Batch]]:
        """Yield (entry numbers, batch) over the entries of process `rank` of `world`."""
        yield from self.load(self.groups(batch_size, rank, world), device)

    def load(
        self, groups: Sequence[list[int]], device: torch.device | str = "cpu"
    ) -> Iterator[tuple[list[int], Batch]]:
        """Yield (entry numbers, batch) for some of the groups."""
        for numbers in groups:
            contexts = len(self.entries[numbers[0]].context)
            yield numbers, collate([self.item(number) for number in numbers], contexts).to_batch(device)
