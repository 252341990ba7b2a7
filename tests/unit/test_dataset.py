"""Training samples by counter, evaluation samples exactly once, batches the same whoever makes them."""

import random
import shutil
from dataclasses import replace

import pytest
import torch

from novelview.config.schema import AugmentConfig, ViewsConfig
from novelview.errors import ConfigError, DataError
from novelview.scenes.batch import OwnFrames, RawBatch, Sample, SharedFrames, collate
from novelview.scenes.dataset import EvalSet, TrainLoader, TrainSet, augment, mirror, workers_that_fit
from novelview.scenes.store import PackedStore
from novelview.scenes.views import EvalEntry

CFG = ViewsConfig(image_size=28, num_views=5, num_target=3, min_frame_dist=4, max_frame_dist=9)


@pytest.fixture(scope="module")
def store(packed) -> PackedStore:
    return PackedStore(packed / "train")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory, make_packed) -> PackedStore:
    """One long scene, one too short, one long with damaged frames."""
    folder = tmp_path_factory.mktemp("mixed")
    frames = {"damaged": 12, "long": 12, "short": 3}
    return PackedStore(make_packed(folder, frames, damage={"damaged": {0, 5, 11}}) / "train")


def loaded(data: TrainSet) -> Sample:
    draw = data.draw(0, random.Random(0))
    return data.cache.sample(data.scenes[draw.row], draw.frames, draw.row)


def same(left: RawBatch, right: RawBatch) -> bool:
    tensors = zip(left[1:5], right[1:5], strict=True)
    return left.scene == right.scene and all(torch.equal(one, other) for one, other in tensors)


def test_a_batch_has_contexts_first_and_values_in_range(store) -> None:
    batch = TrainSet(store, CFG, seed=1).batch(0, 4).to_batch()
    assert batch.context.images is not None and batch.target.images is not None
    assert batch.context.images.shape == (4, 2, 3, 28, 28) and batch.target.images.shape == (4, 3, 3, 28, 28)
    assert batch.target.images.min() >= 0 and batch.target.images.max() <= 1 and batch.target.images.max() > 0.3
    assert batch.context.c2w.dtype == batch.context.intrinsics.dtype == torch.float32
    first, last = batch.context.frame.T
    assert ((last - first >= 4) & (last - first <= 9)).all()
    assert ((batch.target.frame >= first[:, None]) & (batch.target.frame <= last[:, None])).all()


def test_a_batch_depends_on_seed_and_number_alone(store) -> None:
    fresh, used = TrainSet(store, CFG, seed=1), TrainSet(store, CFG, seed=1, cache_mb=0)
    for number in range(7):
        used.batch(number, 3)
    assert same(fresh.batch(5, 3), used.batch(5, 3))
    assert not same(fresh.batch(5, 3), TrainSet(store, CFG, seed=2).batch(5, 3))
    assert not same(fresh.batch(5, 3), fresh.batch(13, 3))


def test_processes_share_out_the_batch_of_one(store) -> None:
    data = TrainSet(store, CFG, seed=3)
    whole = data.batch(4, 4)
    shares = [data.batch(4, 2, rank, 2) for rank in range(2)]
    for rank, share in enumerate(shares):
        assert torch.equal(share.images, whole.images[rank::2]) and share.scene == whole.scene[rank::2]


def test_an_epoch_visits_scenes_once_and_drops_the_rest(store) -> None:
    data = TrainSet(store, CFG, seed=4)
    epochs = [
        [scene for number in (2 * epoch, 2 * epoch + 1) for scene in data.batch(number, 3).scene] for epoch in (0, 1)
    ]
    assert all(len(set(names)) == 6 for names in epochs)
    assert epochs[0] != epochs[1]


def test_a_batch_larger_than_the_set_goes_through_several_epochs(store) -> None:
    names = TrainSet(store, CFG, seed=5).batch(0, 24).scene
    assert sorted(names) == sorted(list(store.scenes) * 3)


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_deliver_the_same_batches_in_order(store, workers) -> None:
    loaders = [TrainLoader(TrainSet(store, CFG, seed=6), 2, workers=count) for count in (0, workers)]
    pairs = list(zip(*(loader.batches(3, 9) for loader in loaders), strict=True))
    assert len(pairs) == 6
    for ours, theirs in pairs:
        assert ours.scene == theirs.scene and torch.equal(ours.target.images, theirs.target.images)


@pytest.mark.parametrize("workers", [0, 1])
def test_frames_that_changed_on_disk_are_one_line_whoever_reads_them(tmp_path, make_packed, workers) -> None:
    folder = make_packed(tmp_path, {"only": 12}) / "train"
    data = TrainSet(PackedStore(folder), CFG)
    (shard,) = folder.glob("shard-*.bin")
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(DataError, match="scene only") as caught:
        next(TrainLoader(data, 1, workers=workers).batches(0, 1))
    assert "\n" not in str(caught.value)


def test_the_loader_leaves_the_random_generator_alone(store) -> None:
    before = torch.get_rng_state()
    list(TrainLoader(TrainSet(store, CFG), 2, workers=1).batches(0, 2))
    assert torch.equal(before, torch.get_rng_state())


def test_short_scenes_are_replaced_and_damaged_frames_avoided(mixed) -> None:
    data = TrainSet(mixed, CFG, seed=7)
    row = data.scenes.index("short")
    drawn = {data.draw(row, random.Random(seed)).row for seed in range(40)}
    assert {data.scenes[other] for other in drawn} == {"long", "damaged"}
    for seed in range(200):
        draw = data.draw(data.scenes.index("damaged"), random.Random(seed))
        assert data.scenes[draw.row] != "damaged" or not {0, 5, 11} & set(draw.frames)


def test_only_the_views_of_a_sample_are_decoded_but_all_set_its_frame(store) -> None:
    cfg = replace(CFG, target_has_input=False, num_target=1)
    sample = TrainSet(store, cfg, seed=8).sample_at(0, 1)
    whole = TrainSet(store, replace(cfg, num_target=3), seed=8).sample_at(0, 1)
    assert len(sample.images) == 3 and len(whole.images) == 5
    assert torch.equal(sample.c2w, whole.c2w[:3])
    assert torch.isclose(whole.c2w[:, :3, 3].abs().max(), torch.tensor(1 / 1.35))


def test_the_cache_stays_within_its_bound(store) -> None:
    data = TrainSet(store, CFG, seed=9, cache_mb=0)
    kept = OwnFrames(10 * 28 * 28 * 3)
    data.cache.memory = kept
    for number in range(8):
        data.batch(number, 4)
    assert len(kept.frames) == 10


def test_workers_share_the_frames_that_any_of_them_has_decoded(store) -> None:
    data = TrainSet(store, CFG, seed=9, cache_mb=64, shared=True)
    kept = data.cache.memory
    assert isinstance(kept, SharedFrames) and not kept.there.any()
    theirs = list(TrainLoader(data, 2, workers=2).batches(0, 24))
    places = sum(store.frames(scene) for scene in store.scenes)
    assert 2 < int(kept.there.sum()) <= places == kept.places  # what the workers decoded is here
    own = TrainSet(store, CFG, seed=9, cache_mb=64)
    for number, batch in enumerate(theirs):
        again = own.batch(number, 2).to_batch()
        assert torch.equal(batch.target.images, again.target.images)
        assert torch.equal(batch.context.images, data.batch(number, 2).to_batch().context.images)


def test_workers_are_given_up_where_their_batches_do_not_fit(tmp_path, caplog, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(100, 36, 64 * 2**20))
    assert workers_that_fit(4, 3 * 2**20, tmp_path) == 4 and not caplog.records
    assert workers_that_fit(4, 4 * 2**20, tmp_path) == 0
    assert "64 MB free and 4 loader processes need 68" in caplog.text and "set a lower runtime.workers" in caplog.text
    assert workers_that_fit(0, 2**40, tmp_path) == 0 and workers_that_fit(2, 2**40, tmp_path / "nowhere") == 2


def test_shared_frames_have_a_bound_too(store) -> None:
    scene = store.scenes[0]
    frames = SharedFrames([(scene, 5), ("other", 5)], 4, 6, room=7 * 4 * 6 * 3 + 1)
    image = torch.arange(72, dtype=torch.uint8).view(3, 4, 6)
    for key in ((scene, 0), ("other", 1), ("other", 2), ("else", 0)):
        frames.keep(key, image)
    assert frames.places == 7 and frames.find((scene, 1)) is None
    for key in ((scene, 0), ("other", 1)):
        found = frames.find(key)
        assert found is not None and torch.equal(found, image)
    assert frames.find(("other", 2)) is None and frames.find(("else", 0)) is None
    frames.keep((scene, 2), image[:, :2])
    assert frames.find((scene, 2)) is None
    assert SharedFrames([(scene, 5)], 4, 6, room=0).find((scene, 0)) is None


@pytest.mark.parametrize(
    ("views", "said"),
    [
        (replace(CFG, num_views=13, min_frame_dist=13, max_frame_dist=20), r"lower views\.num_views to 12 or less"),
        (replace(CFG, min_frame_dist=11, max_frame_dist=20), r"lower views\.min_frame_dist to 10 or less"),
    ],
)
def test_no_scene_long_enough_names_the_key_and_its_limit(store, views, said) -> None:
    with pytest.raises(ConfigError, match=said):
        TrainSet(store, views)
    assert TrainSet(store, replace(CFG, min_frame_dist=10, max_frame_dist=20)).batch(0, 1).scene


def test_an_interval_too_short_for_its_views_is_refused_at_once(store) -> None:
    with pytest.raises(ConfigError, match="holds no 3 views"):
        TrainSet(store, replace(CFG, min_frame_dist=3))


def test_a_mirrored_scene_projects_points_to_mirrored_pixels(store) -> None:
    sample = loaded(TrainSet(store, CFG))
    flipped = mirror(sample)
    assert torch.equal(flipped.images, sample.images.flip(-1))
    point = torch.tensor([0.3, -0.2, 0.9])
    width = sample.images.shape[-1]
    for view in range(len(sample.images)):
        x, y = project(sample.c2w[view], sample.intrinsics[view], point)
        mirrored = project(flipped.c2w[view], flipped.intrinsics[view], point * torch.tensor([-1.0, 1.0, 1.0]))
        assert torch.allclose(mirrored, torch.stack([width - x, y]), atol=1e-3)
    assert torch.allclose(torch.linalg.det(flipped.c2w[:, :3, :3]), torch.ones(5), atol=1e-5)


def project(c2w: torch.Tensor, intrinsics: torch.Tensor, point: torch.Tensor) -> torch.Tensor:
    local = c2w[:3, :3].T @ (point - c2w[:3, 3])
    return intrinsics[:2] * local[:2] / local[2] + intrinsics[2:]


def test_augmentations_are_the_same_for_all_views_and_off_by_default(store) -> None:
    sample = loaded(TrainSet(store, CFG))
    rng = random.Random(0)
    assert augment(sample, AugmentConfig(), 2, rng) is sample and rng.getstate() == random.Random(0).getstate()
    seen = {
        augment(sample, AugmentConfig(channels=True), 2, random.Random(seed)).images.numpy().tobytes()
        for seed in range(60)
    }
    assert len(seen) == 6
    swaps = [
        augment(sample, AugmentConfig(swap_context=True), 2, random.Random(seed)).index[:, 0] for seed in range(20)
    ]
    orders = {tuple(order.tolist()) for order in swaps}
    first, second, *rest = sample.index[:, 0].tolist()
    assert orders == {(first, second, *rest), (second, first, *rest)}


ENTRIES = [EvalEntry(f"scene{row % 8}", (0, 8), tuple(range(1, 2 + row % 3))) for row in range(11)]


@pytest.mark.parametrize(("batch_size", "world"), [(1, 1), (4, 1), (3, 2), (16, 3), (2, 16)])
def test_every_entry_is_evaluated_exactly_once(store, batch_size, world) -> None:
    data = EvalSet(store, ENTRIES, CFG)
    groups = [group for rank in range(world) for group in data.groups(batch_size, rank, world)]
    assert sorted(number for group in groups for number in group) == list(range(11))
    assert all(len(group) <= batch_size for group in groups)
    assert all(len({len(ENTRIES[number].target) for number in group}) == 1 for group in groups)


def test_evaluation_batches_hold_the_entries_frames(store) -> None:
    data = EvalSet(store, ENTRIES, CFG)
    for numbers, batch in data.load(data.groups(4), torch.device("cpu")):
        for row, number in enumerate(numbers):
            assert batch.scene[row] == ENTRIES[number].scene
            assert tuple(batch.context.frame[row].tolist()) == ENTRIES[number].context
            assert tuple(batch.target.frame[row].tolist()) == ENTRIES[number].target
            assert torch.equal(batch.target.c2w[row], data.item(number).c2w[2:])


def test_without_the_square_crop_frames_keep_their_shape(tmp_path, make_packed) -> None:
    wide = make_packed(tmp_path / "wide", {"wide": 12}, size=(36, 96))
    cfg = replace(CFG, square_crop=False)
    sample = loaded(TrainSet(PackedStore(wide / "train"), cfg))
    assert sample.images.shape[-2:] == (28, 70)


def test_one_batch_of_two_sizes_is_an_error_that_names_the_scenes(store, tmp_path, make_packed) -> None:
    tall = PackedStore(make_packed(tmp_path, {"wide": 12}, size=(36, 96)) / "train")
    cfg = replace(CFG, square_crop=False)
    samples = [loaded(TrainSet(source, cfg)) for source in (store, tall)]
    with pytest.raises(DataError, match=r"scenes scene0 and wide give frames of 56x28 and 70x28 pixels"):
        collate(samples, 2)


def test_threads_decode_the_same_samples(store: PackedStore) -> None:
    alone, together = (TrainSet(store, CFG, seed=3, cache_mb=0, threads=count) for count in (1, 3))
    assert same(alone.batch(2, 3), together.batch(2, 3))
