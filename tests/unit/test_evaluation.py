"""The evaluation: every target once whatever the batch or the number of processes, honest baselines and intervals."""

import json
import random

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from novelview.config.schema import EvalConfig, ViewsConfig
from novelview.devices import Team
from novelview.errors import CheckpointError, ConfigError, DataError
from novelview.evaluation.gallery import choose_samples
from novelview.evaluation.geometry import mean_errors
from novelview.evaluation.metrics import psnr
from novelview.evaluation.protocol import (
    BASELINES,
    Splits,
    choose_scenes,
    mean_colour,
    mean_context,
    nearest_context,
    swap_poses,
)
from novelview.evaluation.published import papers, protocol, published
from novelview.evaluation.report import Subject, evaluate, evaluate_to
from novelview.evaluation.scores import ImageScores, groups, interval, paired, read_rows, write_rows
from novelview.scenes.batch import Views
from novelview.scenes.views import EvalEntry

FRAMES = 12
VIEWS = ViewsConfig(image_size=28, patch_size=14)
CONFIG = EvalConfig(batch_size=3, bootstrap=50, gallery=4, video_frames=3, video_scenes=1, pose_scenes=2)


class FakeStore:
    """Scenes whose frames are smooth colour ramps that move with a camera on a straight line."""

    posed = True

    def __init__(self, count: int = 5) -> None:
        self.scenes = [f"scene{number}" for number in range(count)]

    def mask(self, scene: str, index: int) -> None:
        return None

    def frames(self, scene: str) -> int:
        return FRAMES

    def image(self, scene: str, index: int) -> Image.Image:
        place = np.linspace(0, 3, 48)[None, :, None] + 0.2 * index + self.scenes.index(scene)
        ramp = np.sin(place + np.linspace(0, 1, 32)[:, None, None] + np.arange(3))
        return Image.fromarray(np.round(127.5 * (1 + ramp)).astype(np.uint8))

    def c2w(self, scene: str) -> torch.Tensor:
        poses = torch.eye(4).repeat(FRAMES, 1, 1)
        poses[:, 0, 3] = torch.arange(FRAMES) * 0.1
        poses[:, 1, 3] = torch.linspace(0, 1, FRAMES) ** 2
        return poses

    def intrinsics(self, scene: str) -> torch.Tensor:
        return torch.tensor([[0.8, 1.2, 0.5, 0.5]]).expand(FRAMES, 4)

    def size(self, scene: str, frame: int | None = None) -> tuple[int, int]:
        return 32, 48

    def bad(self, scene: str) -> set[int]:
        return {5} if scene == "scene1" else set()


class Posed(torch.nn.Module):
    """Shifts the mean context view by the target's camera: wrong, but different for every pose."""

    needs_context_poses, needs_target_poses, needs_target_images = True, True, False

    def forward(self, context: Views, target: Views):
        weight = torch.sigmoid(target.c2w[:, :, 0, 3])[..., None, None, None]
        images = weight * context.images[:, -1:] + (1 - weight) * context.images[:, :1]
        return type("Render", (), {"images": images})

    def render_path(self, context: Views, c2w, intrinsics):
        return self(context, Views(None, c2w, intrinsics)).images


class Unposed(Posed):
    """Reads how bright the target image is, and takes that for its pose."""

    needs_context_poses, needs_target_poses, needs_target_images = False, False, True

    def forward(self, context: Views, target: Views):
        return super().forward(context, Views(None, self.estimate_poses(context, target.images), target.intrinsics))

    def estimate_poses(self, context: Views, images):
        poses = torch.eye(4).repeat(*images.shape[:2], 1, 1)
        poses[..., 0, 3] = images.mean(dim=(2, 3, 4))
        poses[..., 1, 3] = images[:, :, 0].mean(dim=(2, 3))
        return poses

    def render_path(self, context: Views, c2w, intrinsics):
        return Posed.forward(self, context, Views(None, c2w, intrinsics)).images

    def attention_map(self, context: Views):
        return torch.arange(64.0).reshape(1, 8, 8)


class Part:
    """Process `rank` of `world`, with what the others gathered."""

    def __init__(self, rank: int, world: int, others: list | None = None) -> None:
        self.rank, self.world, self.device, self.others = rank, world, torch.device("cpu"), others

    def gather(self, value):
        return [value] if self.others is None else [*self.others.pop(0), value]


def indices() -> dict[str, list[EvalEntry]]:
    rng = random.Random(1)
    near = [EvalEntry(f"scene{n}", (0, 6), tuple(sorted(rng.sample(range(1, 5), 3)))) for n in range(5)]
    wide = [EvalEntry(f"scene{n}", (0, 11), (2, 4, 8)) for n in (0, 2, 4)]
    return {"near": near, "wide": wide, "both": [*near, *wide]}


SETS = {f"scene{n}": "seen" if n < 3 else "new" for n in range(5)}


def splits() -> Splits:
    return Splits.of(FakeStore(), indices(), SETS)


def scores(model, cfg=CONFIG, ranks=None) -> list[ImageScores]:
    return evaluate(Subject(model.eval(), "fake", VIEWS), FakeStore(), splits(), cfg, ranks)


def numbers(rows: list[ImageScores]) -> torch.Tensor:
    return torch.tensor([[row.psnr, row.ssim] for row in rows])


def names(rows: list[ImageScores]) -> list[tuple]:
    return [(row.model, row.scene, row.set, row.split, row.entry, row.frame) for row in rows]


def test_every_target_is_scored_once_in_every_split():
    rows = [row for row in scores(Posed()) if row.model == "fake"]
    expected = [
        (split, number, entry.scene, frame)
        for split, index in indices().items()
        for number, entry in enumerate(index)
        for frame in entry.target
    ]
    assert [(row.split, row.entry, row.scene, row.frame) for row in rows] == expected
    assert {(row.scene, row.set) for row in rows} == set(SETS.items())


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_scores_do_not_depend_on_the_batch(batch_size):
    one, other = scores(Posed()), scores(Posed(), EvalConfig(batch_size=batch_size))
    assert names(one) == names(other)
    torch.testing.assert_close(numbers(one), numbers(other), atol=1e-4, rtol=0)


@pytest.mark.parametrize("world", [2, 3])
def test_scores_do_not_depend_on_the_number_of_processes(world):
    parts = [scores(Posed(), ranks=Part(rank, world)) for rank in range(world - 1)]
    together = scores(Posed(), ranks=Part(world - 1, world, [parts]))
    alone = scores(Posed())
    assert all(parts) and names(together) == names(alone)
    torch.testing.assert_close(numbers(together), numbers(alone), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", [Posed, Unposed])
def test_swapped_poses_are_another_targets(kind):
    rows = scores(kind())
    own = {(row.split, row.entry, row.frame): row.psnr for row in rows if row.model == "fake"}
    swapped = {(row.split, row.entry, row.frame): row.psnr for row in rows if row.model == "fake_swapped_pose"}
    assert own.keys() == swapped.keys()
    assert all(abs(own[image] - swapped[image]) > 1e-4 for image in own)
    assert not [row for row in scores(kind(), EvalConfig(swap_poses=False)) if "swapped" in row.model]


def test_swapping_shifts_camera_and_image_together():
    target = views(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[4, 5, 6]]))
    swapped = swap_poses(target)
    assert swapped.c2w[0, :, 0, 3].tolist() == [2, 3, 1]
    assert swapped.images[0, :, 0, 0, 0].tolist() == [2, 3, 1]


def test_a_single_target_has_no_other_pose_to_swap_with():
    index = {"held_out": [EvalEntry("scene0", (0, 4), (2,))]}
    rows = evaluate(Subject(Posed().eval(), "fake", VIEWS), FakeStore(), Splits.of(FakeStore(), index, {}), CONFIG)
    assert [row.model for row in rows] == ["fake", "mean_colour", "mean_context", "nearest_context"]
    assert {row.set for row in rows} == {"test"}


def views(x: torch.Tensor, frame: torch.Tensor) -> Views:
    """One scene whose cameras stand at `x` on a line, each image of that value."""
    c2w = torch.eye(4).repeat(*x.shape, 1, 1)
    c2w[..., 0, 3] = x
    return Views(x[..., None, None, None].expand(-1, -1, 3, 4, 4), c2w, torch.ones(*x.shape, 4), frame)


def test_the_nearest_context_is_nearest_in_space_then_in_time():
    context = views(torch.tensor([[0.0, 1.0]]), torch.tensor([[0, 10]]))
    target = views(torch.tensor([[0.3, 0.7, 0.5, 0.5, 0.5000001]]), torch.tensor([[9, 1, 2, 8, 1]]))
    copies = nearest_context(context, target)
    assert copies.shape == (1, 5, 3, 4, 4)
    assert copies[0, :, 0, 0, 0].tolist() == [0, 1, 0, 1, 0]


def test_means_of_the_contexts():
    context = views(torch.tensor([[0.0, 1.0]]), torch.tensor([[0, 10]]))
    context.images = context.images.clone()
    context.images[:, :, 0] = 0.25
    target = views(torch.tensor([[0.3, 0.7]]), torch.tensor([[3, 7]]))
    for baseline in (mean_context, mean_colour):
        images = baseline(context, target)
        assert images.shape == (1, 2, 3, 4, 4)
        torch.testing.assert_close(images[0, 1, :, 2, 2], torch.tensor([0.25, 0.5, 0.5]))


def test_a_baseline_is_scored_like_a_model():
    rows = [row for row in scores(Posed()) if row.model == "mean_colour" and row.split == "wide"]
    store = FakeStore()
    ends = torch.stack([crop(store, "scene0", frame) for frame in (0, 11)])
    flat = ends.mean(dim=(0, 2, 3))[:, None, None].expand(3, 28, 28)
    assert rows[0].psnr == pytest.approx(float(psnr(flat, crop(store, "scene0", 2))), abs=1e-4)


def crop(store: FakeStore, scene: str, frame: int) -> torch.Tensor:
    from novelview.cameras.camera import resize_crop_plan

    return resize_crop_plan(32, 48, VIEWS).image(store.image(scene, frame)).float() / 255


def test_renders_that_are_not_finite_are_an_error():
    class Broken(Posed):
        def forward(self, context, target):
            return type("Render", (), {"images": super().forward(context, target).images * float("nan")})

    with pytest.raises(CheckpointError, match="fake: its renders of scene0"):
        scores(Broken())


def test_a_split_whose_scenes_are_elsewhere_is_an_error():
    with pytest.raises(DataError, match="split small: none of its 1 entries"):
        Splits.of(FakeStore(), {"small": [EvalEntry("other", (0, 1), (2,))]}, {})


def test_an_empty_split_is_left_out_with_a_warning(caplog):
    found = Splits.of(FakeStore(), {"small": [], **indices()}, SETS)
    assert "split small: its index has no entries" in caplog.text
    assert not [place for places in found.places for place in places if place.split == "small"]
    with pytest.raises(DataError, match="no split to evaluate"):
        Splits.of(FakeStore(), {"small": []}, {})


def test_entries_on_damaged_frames_are_left_out_and_the_others_keep_their_numbers():
    index = [EvalEntry("scene1", (0, 6), (5,)), EvalEntry("scene1", (0, 6), (4,))]
    found = Splits.of(FakeStore(), {"small": index}, {})
    assert [(entry.target, places[0].entry) for entry, places in zip(found.entries, found.places, strict=True)] == [
        ((4,), 1)
    ]


def test_coverage_counts_what_the_store_cannot_serve():
    index = [EvalEntry("scene1", (0, 6), (5,)), EvalEntry("scene1", (0, 6), (4,)), EvalEntry("gone", (0, 1), (1,))]
    assert Splits.of(FakeStore(), {"small": index}, {}).coverage() == {"small": {"index": 3, "evaluated": 1}}


def test_lpips_fills_its_column_where_it_can_be_computed():
    def distance(pred, target):
        return (pred - target).abs().mean(dim=(2, 3, 4))

    rows = evaluate(Subject(Posed().eval(), "fake", VIEWS), FakeStore(), splits(), CONFIG, lpips=distance)
    assert all(0 < row.lpips < 1 for row in rows)
    group = groups(rows, 50, 0)[0]
    own = [row.lpips for row in rows if all(getattr(row, key) == group[key] for key in ("model", "set", "split"))]
    assert group["lpips"]["mean"] == pytest.approx(np.mean(own), abs=1e-6)
    assert paired(rows, "fake", list(BASELINES), 50, 0)[0]["lpips"] is not None


# --- rows, intervals


def test_rows_come_back_from_the_file(tmp_path):
    rows = [
        ImageScores("m", "s,1", "new", "small", 3, 7, 20.5, 0.25, None, 0.75),
        ImageScores("n", "s", "new", "gap12", 0, 1, 9.0, -0.1, 0.5, 1.5),
    ]
    write_rows(tmp_path / "rows.csv", rows)
    assert (tmp_path / "rows.csv").read_text().splitlines()[:2] == [
        "model,scene,set,split,entry,frame,psnr,ssim,lpips,sharpness,flip",
        'm,"s,1",new,small,3,7,20.500000,0.250000,,0.750000,',
    ]
    assert read_rows(tmp_path / "rows.csv") == rows


def test_flip_stands_in_where_lpips_cannot_be_had():
    rows = evaluate(Subject(Posed().eval(), "fake", VIEWS), FakeStore(), splits(), CONFIG)
    assert all((row.flip is None) == (row.model != "fake") and row.lpips is None for row in rows)
    assert all(0 < row.flip < 1 for row in rows if row.model == "fake")
    assert groups(rows, 50, 0)[0].keys() >= {"flip", "lpips"}

    def distance(one, other):
        return torch.full(one.shape[:-3], 0.5)

    rows = evaluate(Subject(Posed().eval(), "fake", VIEWS), FakeStore(), splits(), CONFIG, lpips=distance)
    assert all(row.flip is None and row.lpips == 0.5 for row in rows)


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "model,scene,set,split,entry,frame,psnr,ssim,lpips\nm,s,n,x,1,2\n"])
def test_a_file_that_holds_no_rows_is_refused(tmp_path, text):
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(DataError, match=r"rows\.csv: not a table of scores"):
        read_rows(tmp_path / "rows.csv")


def test_the_interval_resamples_scenes_not_images():
    rng = np.random.default_rng(0)
    values = np.repeat(rng.normal(20, 2, 40), 30)
    scenes = [f"s{number}" for number in range(40) for _ in range(30)]
    found = interval(values, scenes, 4000, 0)
    error = values[::30].std() / 40**0.5
    assert found["mean"] == pytest.approx(values.mean(), abs=1e-6)
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * error, rel=0.1)
    assert found == interval(values, scenes, 4000, 0)


def test_scenes_weigh_by_their_images():
    assert interval(np.array([1.0, 1.0, 1.0, 5.0]), ["a", "a", "a", "b"], 10, 0)["mean"] == 2.0


def test_one_scene_resamples_its_images():
    found = interval(np.array([1.0, 2.0, 3.0, 4.0]), ["a"] * 4, 500, 0)
    assert found["low"] < 2.5 < found["high"]


def test_paired_differences_cancel_what_scenes_share():
    rng = np.random.default_rng(1)
    rows = []
    for number, level in enumerate(rng.normal(20, 5, 12)):
        for frame in range(3):
            place = (f"s{number}", "new", "small", 0, frame)
            rows.append(ImageScores("m", *place, level + 1, 0.5, None, 0.5))
            rows += [ImageScores(name, *place, level, 0.5, None, 0.5) for name in (*BASELINES, "m_swapped_pose")]
    found = paired(rows, "m", [*BASELINES, "m_swapped_pose"], 200, 0)
    assert [row["baseline"] for row in found] == [*BASELINES, "m_swapped_pose"]
    assert found[0]["psnr"] == pytest.approx({"mean": 1.0, "low": 1.0, "high": 1.0})
    assert found[0]["lpips"] is None and found[0]["count"] == 36 and found[0]["scenes"] == 12
    apart = next(row for row in groups(rows, 200, 0) if row["model"] == "m")
    assert apart["psnr"]["high"] - apart["psnr"]["low"] > 2


# --- pictures, poses, the folder


def test_pictures_are_spread_over_sets_and_splits():
    chosen = choose_samples(splits(), 6)
    assert {(place.split, place.set) for _, place in chosen} == {(s, t) for s in indices() for t in ("seen", "new")}
    assert len({number for number, _ in choose_samples(splits(), 4)}) == 4 and choose_samples(splits(), 0) == []
    assert len(choose_samples(splits(), 40)) == 40


def test_paths_take_each_scenes_widest_context():
    picked = [splits().entries[number] for number in choose_scenes(splits(), 4)]
    assert [entry.scene for entry in picked] == ["scene0", "scene2", "scene3", "scene4"]
    assert [entry.context for entry in picked] == [(0, 11), (0, 11), (0, 6), (0, 11)]
    assert choose_scenes(splits(), 0) == []


def evaluated(tmp_path, model, ranks=None):
    facts = {"dataset": "fake", "digest": "0" * 12, "weights": {"digest": "1"}}
    subject = Subject(model.eval(), "fake", VIEWS)
    evaluate_to(tmp_path / "out", subject, FakeStore(), splits(), CONFIG, ranks or Team(), facts)
    return tmp_path / "out"


def test_the_folder_of_a_model_that_estimates_poses(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/path_gone.mp4").write_bytes(b"of an earlier evaluation")
    out = evaluated(tmp_path, Unposed())
    assert sorted(path.name for path in out.iterdir()) == [
        "gallery.safetensors", "path_scene1.mp4", "poses.json", "rows.csv", "summary.json",
    ]  # fmt: skip
    told = json.loads((out / "summary.json").read_text())
    assert told["given"] == {"context_poses": False, "target_poses": False, "target_images": True}
    assert (told["model"], told["resolution"], told["dataset"]) == ("fake", "28", "fake")
    assert told["lpips_reason"] == "n/a (weights not downloaded: pretrained/vgg16-397923af.pth)"
    assert all(group["lpips"] is None and group["psnr"]["low"] <= group["psnr"]["high"] for group in told["groups"])
    assert told["entries"]["near"] == {"index": 5, "evaluated": 5}
    assert told["videos"] == ["path_scene1.mp4"] and told["poses"]["scenes"] == 2
    assert len(read_rows(out / "rows.csv")) == 5 * sum(len(index) for index in indices().values()) * 3


def test_poses_are_aligned_to_the_true_ones(tmp_path):
    paths = json.loads((evaluated(tmp_path, Unposed()) / "poses.json").read_text())
    assert [path["scene"] for path in paths] == ["scene1", "scene4"]
    assert paths[0]["frames"] == [0, 1, 2, 3, 4, *range(6, FRAMES)], "the damaged frame is left out"
    for path in paths:
        centres = [np.array(path[name])[:, :3, 3] for name in ("true", "estimated")]
        np.testing.assert_allclose(centres[0].mean(axis=0), centres[1].mean(axis=0), atol=1e-6)
        errors = np.linalg.norm(centres[0] - centres[1], axis=1)
        np.testing.assert_allclose(path["translation"], errors, atol=1e-6)
        assert len(path["rotation_deg"]) == len(path["frames"])
        assert (errors**2).mean() ** 0.5 <= path["spread"] + 1e-6, "alignment is no worse than guessing the mean"
    assert mean_errors(paths) == mean_errors(paths[::-1]) and mean_errors([]) is None


def test_the_gallery_holds_what_was_scored(tmp_path):
    out = evaluated(tmp_path, Unposed())
    rows = {(row.split, row.entry, row.frame): row for row in read_rows(out / "rows.csv") if row.model == "fake"}
    with safe_open(out / "gallery.safetensors", framework="pt") as file:
        samples = json.loads(file.metadata()["gallery"])
        assert len(samples) == 4
        for number, sample in enumerate(samples):
            context, target, render = (file.get_tensor(f"{number}.{name}") for name in ("context", "target", "render"))
            assert context.shape == (2, 3, 28, 28) and target.shape == render.shape == (1, 3, 28, 28)
            assert context.dtype == torch.uint8
            row = rows[sample["split"], sample["entry"], sample["target"][0]]
            assert (row.scene, row.set) == (sample["scene"], sample["set"])
            assert sample["psnr"] == pytest.approx(row.psnr, abs=1e-3)
            assert float(psnr(render / 255, target / 255)) == pytest.approx(row.psnr, abs=0.05)
            expected = torch.arange(64.0).reshape(8, 8)[:4, 4:].half()
            torch.testing.assert_close(file.get_tensor(f"{number}.attention"), expected)


def test_a_model_that_is_given_poses_leaves_no_estimates(tmp_path):
    out = evaluated(tmp_path, Posed())
    assert not (out / "poses.json").exists() and (out / "path_scene1.mp4").exists()
    assert json.loads((out / "summary.json").read_text())["poses"] is None
    with safe_open(out / "gallery.safetensors", framework="pt") as file:
        assert not [name for name in file.keys() if "attention" in name]  # noqa: SIM118


def test_only_the_first_process_writes(tmp_path):
    evaluated(tmp_path, Posed(), Part(1, 2))
    assert not (tmp_path / "out").exists()


# --- published numbers


def test_published_rows_by_table_model_and_split():
    paper = next(iter(papers()))
    [row] = published(paper, "main", "uplvsm", "full")
    assert (row.psnr, row.ssim, row.lpips, row.grade) == (28.82, 0.891, 0.104, "primary")
    assert {row.split for row in published(paper, "main")} == {"small", "medium", "large", "full"}
    gains = {row.method: row.psnr_gain_per_4x for row in published(paper, "scaling_gain")}
    assert gains["UP-LVSM"] == 2.63 and "target image" in protocol(paper)


def test_every_published_row_has_a_source_and_a_number():
    for paper in papers():
        for row in published(paper):
            assert row.source and row.grade in ("primary", "secondary")
            assert row.psnr is not None or row.psnr_gain_per_4x is not None


def test_an_unknown_paper_is_a_one_line_error():
    with pytest.raises(ConfigError, match="no numbers of this paper; choose one of"):
        published("nobody 2099")
