"""Many context views and rectangular images: sampler, pose normalisation, sizes in paths, selection for evaluation.
DepthSplat's samplers, its crop's intrinsics, and that every sample stays a function of seed and position."""

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from packed_stores import MakePacked
from PIL import Image

from novelview.cameras.camera import cover_plan, resize_crop_plan
from novelview.cameras.poses import mean_frame
from novelview.config.compose import compose
from novelview.config.schema import AugmentConfig, EvalConfig, Resolution, ViewsConfig, size_name
from novelview.errors import ConfigError, DataError
from novelview.scenes.batch import FrameCache
from novelview.scenes.dataset import TrainSet
from novelview.scenes.samplers import (
    bounded_views,
    contexts_at,
    farthest_points,
    gap_range,
    nearest_to_means,
    selected_splits,
)
from novelview.scenes.store import PackedStore

CFG = ViewsConfig(
    image_size=16, image_width=24, patch_size=8, resize="cover", sampler="random", num_views=5, num_context=3,
    num_target=4, pose_normalisation="none",
)  # fmt: skip


class Orbit:
    """Two scenes of cameras on a circle of radius 2.7; frame 2 of the first is damaged."""

    scenes = ("one", "two")
    count = 12

    def mask(self, scene: str, index: int) -> None:
        return None

    def frames(self, scene: str) -> int:
        return self.count

    def bad(self, scene: str) -> set[int]:
        return {2} if scene == "one" else set()

    def image(self, scene: str, index: int) -> Image.Image:
        return Image.fromarray(np.full((20, 32, 3), 10 * index, np.uint8))

    def size(self, scene: str, index: int | None = None) -> tuple[int, int]:
        return 20, 32

    def c2w(self, scene: str) -> torch.Tensor:
        angle = torch.arange(self.count) / self.count * 2 * torch.pi
        poses = torch.eye(4).repeat(self.count, 1, 1)
        poses[:, 0, 3], poses[:, 1, 3] = 2.7 * angle.cos(), 2.7 * angle.sin()
        return poses

    def intrinsics(self, scene: str) -> torch.Tensor:
        return torch.tensor([0.5, 0.8, 0.5, 0.5]).repeat(self.count, 1)


def test_random_views_may_be_both_input_and_target() -> None:
    data = TrainSet(Orbit(), CFG)
    for position in range(20):
        sample = data.sample_at(position, 1)
        frames = sample.index[:, 0].tolist()
        assert sample.images.shape == (7, 3, 16, 24)
        assert len(set(frames)) == 5 and frames[1:3] == frames[3:5], "views 1 and 2 of 5 are input and target"
        if sample.scene == "one":
            assert 2 not in frames


def test_poses_of_objects_stay_where_they_are() -> None:
    frames = [0, 3, 7]
    raw = Orbit().c2w("one")[frames]
    same, _ = FrameCache(Orbit(), CFG, 0).posed("one", frames)
    torch.testing.assert_close(same, raw)
    scene, _ = FrameCache(Orbit(), replace(CFG, pose_normalisation="scene", scene_scale_factor=1.0), 0).posed(
        "one", frames
    )
    torch.testing.assert_close(scene, mean_frame(raw, 1.0).transform(raw))
    assert scene[:, :3, 3].abs().max() == pytest.approx(1.0)


def test_scenes_too_short_for_the_random_sampler_are_named() -> None:
    with pytest.raises(ConfigError, match=r"views.num_views=40.*12 frames; lower views.num_views to 12"):
        TrainSet(Orbit(), replace(CFG, num_views=40))


@pytest.mark.parametrize(
    ("frame", "out", "resized"),
    [((360, 640), (72, 128), (72, 128)), ((512, 512), (24, 40), (40, 40)), ((37, 53), (18, 32), (22, 32)),
     ((640, 360), (64, 64), (114, 64))],
)  # fmt: skip
def test_cover_resize_fills_the_rectangle_and_keeps_the_aspect(frame, out, resized) -> None:
    plan = cover_plan(*frame, *out)
    assert (plan.resize_h, plan.resize_w) == resized and (plan.out_h, plan.out_w) == out
    assert plan.image(Image.new("RGB", frame[::-1])).shape == (3, *out)
    fx, fy, cx, cy = plan.intrinsics(torch.tensor([100.0, 100.0, frame[1] / 2, frame[0] / 2])).tolist()
    assert fx == pytest.approx(fy), "one scale for both axes"
    assert abs(cx - out[1] / 2) <= 1 and abs(cy - out[0] / 2) <= 1


def test_transparent_pixels_turn_white_after_the_resize() -> None:
    image = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    assert (cover_plan(20, 20, 8, 8).image(image) == 255).all()


def test_the_default_rule_ignores_the_width() -> None:
    assert resize_crop_plan(360, 640, ViewsConfig()).out_w == 224


@pytest.mark.parametrize(("height", "width", "name"), [(126, 0, "126"), (64, 64, "64"), (72, 128, "72x128")])
def test_sizes_in_paths(height: int, width: int, name: str) -> None:
    assert size_name(ViewsConfig(image_size=height, image_width=width)) == name
    words = [
        "model=lvsm_decoder_only",
        "scale=paper",
        f"views.image_size={height}",
        f"views.image_width={width}",
        "views.resize=cover",
    ]
    if not (height % 8 or width % 8):
        assert f"/pretrain-x{name}/" in compose("train", words).io["out"]


def test_sizes_are_read_and_ordered() -> None:
    read = [Resolution.parse(text) for text in ("536x960", "72x128", 256)]
    assert [str(size) for size in sorted(read)] == ["72x128", "256", "536x960"]
    with pytest.raises(ConfigError, match="72x128 for height x width"):
        Resolution.parse("72 x 128")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["views.image_width=132", "views.resize=cover"], "views.image_width=132: not a multiple"),
        (["views.image_width=128", "views.image_size=72", "views.resize=height"], "rectangles need views.resize=cover"),
        (["views.sampler=random", "views.num_context=9", "views.num_views=8"], "above views.num_views=8"),
        (["views.sampler=interval", "views.num_context=4"], "views.sampler=random"),
        (["views.sampler=nearest"], "choose one of interval, random"),
        (["views.pose_normalisation=object"], "choose one of scene, none"),
    ],
)
def test_views_that_do_not_fit_are_one_line(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        compose("train", ["model=lvsm_decoder_only", "scale=paper", *words])


@pytest.mark.parametrize("select", ["random", "uniform", "kmeans"])
def test_selected_views_share_their_targets(select: str) -> None:
    cfg = EvalConfig(select=select, context_counts=[2, 4, 7], num_target=3, seed=5)
    splits = selected_splits(Orbit(), cfg)
    assert list(splits) == [f"{select}2", f"{select}4", f"{select}7"]
    for row, scene in enumerate(Orbit.scenes):
        entries = [entries[row] for entries in splits.values()]
        assert len({entry.target for entry in entries}) == 1 and len(entries[0].target) == 3
        for entry, count in zip(entries, (2, 4, 7), strict=True):
            assert entry.scene == scene and len(set(entry.context)) == count
            assert not set(entry.context) & {*entry.target, *Orbit().bad(scene)}
    assert selected_splits(Orbit(), cfg) == splits, "the same seed chooses the same views"
    assert selected_splits(Orbit(), replace(cfg, seed=6)) != splits


def test_all_other_views_are_targets_by_default() -> None:
    (entry, whole) = selected_splits(Orbit(), EvalConfig(select="uniform", num_context=4))["uniform4"]
    assert entry.context == (0, 4, 8, 11) and len(entry.target) == 7
    assert len(whole.target) == 8
    (few, _) = selected_splits(Orbit(), EvalConfig(select="random", num_context=4, num_views=6))["random4"]
    assert len(few.target) == 2


@pytest.mark.parametrize(
    ("cfg", "said"),
    [
        (EvalConfig(select="uniform", num_context=10, num_target=2), "scene one has 11 usable frames, 10"),
        (EvalConfig(select="random", num_context=11), "11 context and 1 target"),
        (EvalConfig(select="kmeans", num_views=12), "12 are asked for"),
    ],
)
def test_more_views_than_a_scene_has_are_one_line(cfg: EvalConfig, said: str) -> None:
    with pytest.raises(DataError, match=said):
        selected_splits(Orbit(), cfg)


def test_k_means_takes_one_view_of_every_cluster() -> None:
    generator = np.random.default_rng(0)
    places = np.repeat(np.array([[0.0, 0, 0], [5, 0, 0], [0, 5, 0], [0, 0, 5]]), 6, axis=0)
    points = places + 0.1 * generator.standard_normal(places.shape)
    assert Counter(row // 6 for row in nearest_to_means(points, 4)) == {0: 1, 1: 1, 2: 1, 3: 1}
    assert len(set(nearest_to_means(np.zeros((5, 3)), 3))) == 3, "cameras that all stand in one place"
    order = list(range(24))
    random.Random(1).shuffle(order)
    shuffled = {order[row] // 6 for row in nearest_to_means(points[order], 4)}
    assert len(shuffled) == 4


@pytest.mark.parametrize("key", ["eval.num_context=0", "eval.num_target=-1", "eval.select=best"])
def test_bad_selection_keys_are_one_line(key: str) -> None:
    with pytest.raises(ConfigError, match=key.partition("=")[0]):
        compose("evaluate", ["io.weights=-", "io.out=-", key])


RE10K = ViewsConfig(
    sampler="bounded", num_target=4, min_frame_dist=45, max_frame_dist=135, start_min_dist=25, start_max_dist=45,
    dist_steps=30_000,
)  # fmt: skip
DL3DV = ViewsConfig(
    sampler="boundedv2", num_context=6, min_context=2, num_target=8, min_frame_dist=20, max_frame_dist=50
)


def store_of(make_packed: MakePacked, folder: Path, scenes: int, frames: int) -> PackedStore:
    return PackedStore(make_packed(folder, {f"scene{number}": frames for number in range(scenes)}) / "train")


def line(count: int) -> torch.Tensor:
    c2w = torch.eye(4).repeat(count, 1, 1)
    c2w[:, 0, 3] = torch.arange(count)
    return c2w


@pytest.mark.parametrize(
    ("step", "expected"), [(0, (25, 45)), (15_000, (35, 90)), (30_000, (45, 135)), (90_000, (45, 135))]
)
def test_intervals_grow_with_training(step, expected) -> None:
    assert gap_range(RE10K, step, 2) == expected


@pytest.mark.parametrize(("contexts", "expected"), [(2, (6, 16)), (3, (10, 25)), (4, (20, 50)), (6, (20, 50))])
def test_fewer_contexts_stand_closer(contexts, expected) -> None:
    assert gap_range(DL3DV, 0, contexts) == expected


def test_bounded_draws_every_length_and_targets_from_end_to_end_with_replacement() -> None:
    cfg = replace(RE10K, min_frame_dist=3, max_frame_dist=9, dist_steps=0)
    rng, lengths, places, repeats = random.Random(0), Counter(), Counter(), 0
    for _ in range(3000):
        picked = bounded_views(line(8), rng, cfg, 0, 2)
        assert picked is not None
        left, right, *targets = picked
        assert 0 <= left < right < 8 and all(left <= target <= right for target in targets)
        lengths[right - left] += 1
        places.update({"left": left in targets, "right": right in targets})
        repeats += len(set(targets)) < len(targets)
    assert set(lengths) == {3, 4, 5, 6, 7}  # the scene's 8 frames end it before max_frame_dist
    assert min(lengths.values()) > 500 and min(places.values()) > 1000 and repeats > 1000


def test_scenes_shorter_than_the_interval_of_the_moment_are_passed_over() -> None:
    assert bounded_views(line(30), random.Random(0), RE10K, 0, 2) is not None
    assert bounded_views(line(30), random.Random(0), RE10K, 30_000, 2) is None


@pytest.mark.parametrize("contexts", [2, 3, 6])
def test_boundedv2_spreads_its_contexts_and_takes_distinct_targets(contexts) -> None:
    for seed in range(60):
        picked = bounded_views(line(80), random.Random(seed), DL3DV, 0, contexts)
        assert picked is not None
        context, targets = picked[:contexts], picked[contexts:]
        first, *between, last = context
        assert len({first, *between, last}) == contexts and between == sorted(between)
        low, high = gap_range(DL3DV, 0, contexts)
        span = max(context) - min(context)
        assert low <= span <= high  # on a straight path the farthest points contain both ends
        assert len(set(targets)) == len(targets) == min(8, span + 1)
        assert all(min(context) <= target <= max(context) for target in targets)


def test_farthest_points_begin_far_out_and_keep_apart() -> None:
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [9, 0, 0], [4, 0, 0]])
    assert farthest_points(points, 4) == [3, 0, 4, 2]
    assert sorted(farthest_points(torch.zeros(3, 3), 3)) == [0, 1, 2]


def test_the_number_of_contexts_follows_from_seed_and_batch_alone() -> None:
    found = [contexts_at(number, 5, DL3DV) for number in range(200)]
    assert set(found) == {2, 3, 4, 5, 6}
    assert found == [contexts_at(number, 5, DL3DV) for number in range(200)]
    assert found != [contexts_at(number, 6, DL3DV) for number in range(200)]
    assert contexts_at(3, 5, RE10K) == 2


def test_samples_are_the_same_wherever_a_run_starts(tmp_path: Path, make_packed: MakePacked) -> None:
    store = store_of(make_packed, tmp_path, 5, 14)
    views = {"image_size": 28, "min_frame_dist": 6, "max_frame_dist": 12, "num_target": 2}
    growing = {"start_min_dist": 2, "start_max_dist": 3, "dist_steps": 4}
    for sampler in ({"sampler": "bounded"}, {"sampler": "boundedv2", "num_context": 4, "min_context": 2}):
        cfg = ViewsConfig(**views, **growing, **sampler, augment=AugmentConfig(mirror=True))
        fresh = [TrainSet(store, cfg, seed=1, accum=2).batch(number, 2) for number in range(12)]
        late = TrainSet(store, cfg, seed=1, accum=2)
        again = [late.batch(number, 2) for number in (11, 4, 7)]
        for one, other in zip(again, (fresh[11], fresh[4], fresh[7]), strict=True):
            assert torch.equal(one.images, other.images) and one.contexts == other.contexts
            assert torch.equal(one.frame, other.frame) and torch.equal(one.c2w, other.c2w)
        spans = [int((part.frame[:, : part.contexts].amax(1) - part.frame.amin(1)).max()) for part in fresh]
        assert max(spans[:2]) <= 3 and max(spans[8:]) >= 4  # steps 0 and, two micro-batches a step, 4 and later


@pytest.mark.parametrize("sampler", ["bounded", "boundedv2"])
def test_damaged_frames_are_neither_context_nor_target(tmp_path: Path, make_packed: MakePacked, sampler: str) -> None:
    store = PackedStore(make_packed(tmp_path, {"only": 14}, damage={"only": {0, 5}}) / "train")
    cfg = ViewsConfig(image_size=28, sampler=sampler, num_target=2, min_frame_dist=3, max_frame_dist=9)
    data = TrainSet(store, cfg)
    assert not any({0, 5} & set(data.draw(0, random.Random(seed)).frames) for seed in range(100))


def test_scenes_that_never_hold_an_interval_are_an_error(tmp_path: Path, make_packed: MakePacked) -> None:
    store = store_of(make_packed, tmp_path, 2, 6)
    with pytest.raises(ConfigError, match=r"views.min_frame_dist=9: sampler bounded needs scenes of 10 frames"):
        TrainSet(store, ViewsConfig(sampler="bounded", min_frame_dist=9, max_frame_dist=12))


@pytest.mark.parametrize(
    ("size", "width", "frame", "resized"), [(256, 0, (360, 640), (256, 455)), (256, 448, (270, 480), (256, 455))]
)
def test_centred_intrinsics_keep_their_share_of_the_picture(size, width, frame, resized) -> None:
    cfg = ViewsConfig(image_size=size, image_width=width, patch_size=16, resize="centred")
    plan = resize_crop_plan(*frame, cfg)
    assert (plan.resize_h, plan.resize_w, plan.left) == (*resized, (resized[1] - (width or size)) // 2)
    height, wide = frame
    relative = torch.tensor([0.8, 1.4, 0.5, 0.5])
    given = relative * torch.tensor([wide, height, wide, height])
    out = plan.intrinsics(given)
    assert out.tolist() == pytest.approx([0.8 * resized[1], 1.4 * resized[0], (width or size) / 2, size / 2])


def test_filters_give_different_pictures_of_the_same_size() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (36, 64, 3), generator=generator, dtype=torch.uint8)
    pictures = []
    for name in ("lanczos", "bilinear"):
        cfg = ViewsConfig(image_size=16, patch_size=8, resize="centred", filter=name)
        pictures.append(resize_crop_plan(36, 64, cfg).image(Image.fromarray(noise.numpy())))
    assert pictures[0].shape == pictures[1].shape == (3, 16, 16)
    assert not torch.equal(*pictures)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["views.sampler=bounded", "views.num_context=3"], r"views.num_context=3: sampler bounded takes 2"),
        (["views.sampler=bounded", "views.dist_steps=5"], r"views.start_min_dist=0: must lie between 1"),
        (["views.sampler=boundedv2", "views.min_context=3"], r"views.min_context=3: must lie between 2"),
        (["views.sampler=bounded", "views.min_frame_dist=99", "views.max_frame_dist=9"], "above max_frame_dist=9"),
        (["views.sampler=boundedv2", "views.num_target=40", "views.min_frame_dist=9"], "train.batch_size=1"),
        (["views.filter=cubic"], "choose one of lanczos, bilinear"),
    ],
)
def test_samplers_that_cannot_be_are_refused(words, message) -> None:
    with pytest.raises(ConfigError, match=message):
        compose("train", ["model=ptlvsm", *words])
