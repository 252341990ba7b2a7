"""Procedural rooms: geometry against the stored cameras, one result for any workers and threads, honest indices."""

import dataclasses
import hashlib
import io
import json
import math
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from novelview.config.sources import RoomsSource, check_source
from novelview.errors import ConfigError, DataError
from novelview.scenes.chunks import chunk_files, read_chunk
from novelview.scenes.procedural.generate import (
    CLASSES,
    _by_processes,
    camera_rows,
    generate,
    room_entries,
    split_names,
)
from novelview.scenes.procedural.layout import SPLITS, Draws, Room, clearance_ok, room_for, room_seed, scene_key
from novelview.scenes.procedural.rendering import (
    overlaps,
    pixel_rays,
    render_depth,
    render_frames,
    trace,
    visible_solids,
)
from novelview.scenes.procedural.textures import GREY, HELD_OUT, TRAINING, pool, textures

SMALL = RoomsSource(
    train_scenes=3,
    test_seen_scenes=2,
    test_new_scenes=1,
    frames=12,
    height=24,
    width=40,
    gaps=[6, 9],
    targets=2,
    chunk_bytes=15_000,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rooms")
    generate(SMALL, out, workers=0, progress=False)
    return out


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_layout_of_the_download_folder(made: Path):
    train = json.loads((made / "train/index.json").read_text())
    test = json.loads((made / "test/index.json").read_text())
    sets = json.loads((made / "scenes.json").read_text())
    assert len(train) == 3 and len(test) == 3 and not set(train) & set(test)
    assert {key: row["set"] for key, row in sets.items()} == (
        {
            scene_key(SMALL.seed, split, number): split
            for split, count in zip(SPLITS, (3, 2, 1, 0), strict=True)
            for number in range(count)
        }
    )
    assert {path.stem for path in (made / "indices").iterdir()} == set(split_names(SMALL))
    assert len(chunk_files(made / "train")) > 1, "chunk_bytes is meant to split this one"


def test_scenes_hold_what_the_format_says(made: Path):
    scenes = [scene for file in chunk_files(made / "test") for scene in read_chunk(file)]
    for scene, (split, number) in zip(scenes, [("seen", 0), ("seen", 1), ("new", 0)], strict=True):
        assert scene.url == f"novelview://rooms/{split}/{number}" and len(scene.key) == 16
        assert scene.timestamps.tolist() == [33_333 * frame for frame in range(SMALL.frames)]
        for image in scene.images:
            picture = Image.open(io.BytesIO(image.numpy().tobytes()))
            assert picture.size == (SMALL.width, SMALL.height) and picture.format == "JPEG"
        assert torch.equal(scene.cameras[:, 2:6], torch.tensor([0.5, 0.5, 0.0, 0.0]).expand(SMALL.frames, 4))


def test_workers_change_no_byte(made: Path, tmp_path: Path):
    generate(SMALL, tmp_path, workers=2, progress=False)
    assert digests(tmp_path) == digests(made)


def test_threads_change_no_pixel_and_no_depth():
    room, before = room_for(SMALL, "train", 0), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            frames = render_frames(room, room.c2w[:2], 200, 352, texels=0)
            results.append((frames, render_depth(room, room.c2w[:2], room.intrinsics, 200, 352)))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


def test_chunks_of_an_earlier_run_do_not_stay(made: Path, tmp_path: Path):
    generate(SMALL, tmp_path, workers=0, progress=False)
    generate(dataclasses.replace(SMALL, train_scenes=1), tmp_path, workers=0, progress=False)
    assert sum(len(read_chunk(file)) for file in chunk_files(tmp_path / "train")) == 1


class Deadly:
    """Ends the process that unpickles it."""

    def __reduce__(self):
        return os._exit, (1,)


def test_a_dead_worker_is_one_line():
    with pytest.raises(DataError, match="worker process died") as caught:
        list(_by_processes(Deadly(), [("train", 0)], workers=1))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_no_room_is_shared_between_splits_or_sources():
    names = [(seed, split, number) for seed in (0, 1, 2026) for split in SPLITS for number in range(300)]
    assert len({room_seed(*name) for name in names}) == len(names)
    assert len({scene_key(*name) for name in names}) == len(names)
    assert all(0 <= room_seed(*name) < 2**63 and int(scene_key(*name), 16) >= 0 for name in names)


def test_room_depends_on_its_number_only():
    more = dataclasses.replace(SMALL, train_scenes=50, test_seen_scenes=9)
    assert room_for(SMALL, "seen", 1).solids == room_for(more, "seen", 1).solids
    assert room_for(SMALL, "seen", 1).solids != room_for(SMALL, "train", 1).solids


def test_photographs_are_split_bundled_and_read_without_network(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("network used")

    monkeypatch.setattr(socket, "socket", refuse)
    textures.cache_clear()
    assert not set(TRAINING) & set(HELD_OUT) and set(TRAINING + HELD_OUT) >= GREY
    assert pool("new") == HELD_OUT and pool("seen") == pool("train") == TRAINING
    for names in (TRAINING, HELD_OUT):
        bank = textures(names, 24)
        assert bank.texels.shape == (int(bank.starts[-1]) + len(names), 4)
        assert bank.sizes.tolist() == [128 >> level for level in range(8)]
        assert bank.texels.min() >= 0.0 and bank.texels.max() <= 1.0


def test_mip_levels_keep_the_mean():
    bank = textures(TRAINING, 0)
    base = bank.texels[: len(TRAINING) * 512**2].reshape(len(TRAINING), -1, 4).mean(1)
    torch.testing.assert_close(bank.texels[-len(TRAINING) :], base, atol=1e-4, rtol=0)


def test_texture_texels_smooth_the_frames():
    room = room_for(SMALL, "train", 1)
    rough = [
        render_frames(room, room.c2w[:1], 90, 160, texels).float().diff(dim=2).abs().mean() for texels in (0, 24, 6)
    ]
    assert rough[0] > rough[1] > rough[2]


def test_supersampling_averages_the_same_view():
    room = room_for(SMALL, "train", 1)
    plain = render_frames(room, room.c2w[:1], 45, 80, 24).float()
    fine = render_frames(room, room.c2w[:1], 45, 80, 24, supersample=3).float()
    assert plain.shape == fine.shape and (plain - fine).abs().median() <= 1
    assert fine.diff(dim=2).abs().amax() < plain.diff(dim=2).abs().amax()


def test_culling_and_batching_change_nothing(monkeypatch: pytest.MonkeyPatch):
    room = room_for(dataclasses.replace(SMALL, objects=[8, 8]), "train", 2)
    origin, direction = pixel_rays(room.c2w, room.intrinsics, 24, 40)
    assert len(visible_solids(room, room.c2w[:1])) < 8
    for frame in range(SMALL.frames):
        seen = visible_solids(room, room.c2w[frame : frame + 1])
        part = origin[frame : frame + 1], direction[:, frame : frame + 1]
        for culled, whole in zip(trace(room.solids, *part, seen), trace(room.solids, *part), strict=True):
            assert torch.equal(culled, whole)
    together = render_frames(room, room.c2w, 24, 40, 24)
    one_by_one = torch.cat([render_frames(room, pose[None], 24, 40, 24) for pose in room.c2w])
    assert torch.equal(together, one_by_one)


def surface_distance(room: Room, points: np.ndarray) -> np.ndarray:
    """Distance of world points to the nearest surface of any solid, straight from the definitions."""
    best = np.full(len(points), np.inf)
    for number, solid in enumerate(room.solids):
        cosine, sine = math.cos(solid.yaw), math.sin(solid.yaw)
        x, y, z = (points - np.array(solid.centre)).T
        local = np.stack([cosine * x - sine * z, y, sine * x + cosine * z], 1)
        if solid.round:
            distance = np.abs(np.linalg.norm(local, axis=1) - solid.half[0])
        else:
            excess = np.abs(local) - np.array(solid.half)
            outside = np.linalg.norm(np.maximum(excess, 0), axis=1)
            distance = outside + np.abs(np.minimum(excess.max(1), 0)) * (outside == 0)
        best = np.minimum(best, distance) if number else distance
    return best


@pytest.mark.parametrize("split", SPLITS)
def test_depth_lies_on_surfaces(split: str):
    room = room_for(SMALL, split, 0)
    fx, fy, cx, cy = room.intrinsics.tolist()
    depth = render_depth(room, room.c2w[3:5], room.intrinsics, 30, 50).double().numpy()
    v, u = np.meshgrid((np.arange(30) + 0.5) / 30, (np.arange(50) + 0.5) / 50, indexing="ij")
    for pose, z in zip(room.c2w[3:5].numpy(), depth, strict=True):
        camera = np.stack([(u - cx) / fx * z, (v - cy) / fy * z, z], -1).reshape(-1, 3)
        assert surface_distance(room, camera @ pose[:3, :3].T + pose[:3, 3]).max() < 1e-4


def warp(cameras: torch.Tensor, depth: torch.Tensor, frame: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Bring `frame` [h w 3], seen by cameras[1], to the pixels of cameras[0]; also the depth its points have there."""
    h, w = depth.shape
    fx, fy, cx, cy = cameras[0, :4].double()
    first, second = (torch.cat([row[6:].reshape(3, 4).double(), torch.eye(4)[3:].double()]) for row in cameras)
    v, u = torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij")
    z = depth.double()
    points = torch.stack([(u - cx) / fx * z, (v - cy) / fy * z, z, torch.ones_like(z)], -1)
    x, y, z = (points @ torch.linalg.inv(first).T @ second.T).unbind(-1)[:3]
    grid = torch.stack([fx * x / z + cx, fy * y / z + cy], -1) * 2 - 1
    source = frame.double().permute(2, 0, 1)[None]
    moved = torch.nn.functional.grid_sample(source, grid[None], align_corners=False)[0].permute(1, 2, 0)
    inside = (grid.abs() < 1).all(-1) & (z > 0)
    return moved, torch.where(inside, z, torch.nan)


def test_one_frame_warps_onto_another_by_depth_and_stored_cameras():
    source = dataclasses.replace(SMALL, height=90, width=160)
    for number in range(3):
        room = room_for(source, "seen", number)
        poses, rows = room.c2w[[2, 7]], camera_rows(room.c2w, room.intrinsics)[[2, 7]]
        frames = render_frames(room, poses, 90, 160, 24)
        depth = render_depth(room, poses, room.intrinsics, 90, 160)
        moved, z = warp(rows, depth[0], frames[1])
        there, _ = warp(rows, depth[0], depth[1][..., None])
        consistent = (z - there[..., 0]).abs() < 0.01 * z
        error = (moved - frames[0]).abs().mean(-1)
        still = (frames[1].double() - frames[0]).abs().mean(-1)
        assert consistent.float().mean() > 0.3
        assert error[consistent].mean() < 1.5 and still[consistent].mean() > 5 * error[consistent].mean()
        swapped, _ = warp(rows.flip(0), depth[0], frames[1])
        assert (swapped - frames[0]).abs().mean(-1)[consistent].mean() > 5 * error[consistent].mean()
        share = consistent.double().mean().item()
        assert overlaps(room, [(2, 7)])[0] <= share + 0.05


def test_overlap_is_the_smaller_share_of_consistent_points():
    source = dataclasses.replace(SMALL, height=48, width=80)
    room = room_for(source, "seen", 0)
    shares = []
    for pair in ([1, 9], [9, 1]):
        depth = render_depth(room, room.c2w[pair], room.intrinsics, 192, 320)
        rows = camera_rows(room.c2w, room.intrinsics)[pair]
        there, z = warp(rows, depth[0], depth[1][..., None])
        shares.append(((z - there[..., 0]).abs() < 0.02 * z).double().mean().item())
    there, back, same = overlaps(room, [(1, 9), (9, 1), (4, 4)])
    assert there == pytest.approx(min(shares), abs=0.03)
    assert there == back
    assert same == 1.0


@pytest.mark.parametrize("split", SPLITS)
def test_cameras_stay_free_move_smoothly_and_pan_as_configured(split: str):
    source = dataclasses.replace(RoomsSource(), pan=[25.0, 30.0], drift=[0.0, 5.0], dolly=[0.5, 0.8])
    for number in range(8):
        room = room_for(source, split, number)
        places, axes = room.c2w[:, :3, 3], room.c2w[:, :3, 2]
        assert clearance_ok(places, room.solids)
        assert 0.45 < (places[-1] - places[0]).norm() < 0.85
        yaw = torch.rad2deg(torch.atan2(axes[:, 0], axes[:, 2]))
        turns = (yaw.diff() + 180) % 360 - 180
        assert 20 <= turns.sum().abs() <= 35 and (turns.sign() == turns[0].sign()).all()
        assert turns.abs().max() < 2.5 and turns.diff().abs().max() < 0.15
        assert places.diff(dim=0).norm(dim=1).max() < 0.08 and places.diff(n=2, dim=0).norm(dim=1).max() < 0.01
        identity = room.c2w[:, :3, :3] @ room.c2w[:, :3, :3].transpose(1, 2)
        torch.testing.assert_close(identity, torch.eye(3).double().expand_as(identity))
        assert 50 <= math.degrees(2 * math.atan(0.5 / room.intrinsics[0])) <= 75
        assert room.intrinsics[1] / room.intrinsics[0] == pytest.approx(source.width / source.height)


def check_entry(source: RoomsSource, name: str, entry: dict) -> None:
    (first, last), targets, value = entry["context"], entry["target"], entry["overlap"]
    assert 0 <= first < last < source.frames and len(set(targets)) == source.targets and targets == sorted(targets)
    assert all(0 <= target < source.frames for target in targets)
    inside = [first < target < last for target in targets]
    assert not any(inside) if name == "extrapolation" else all(inside)
    assert not set(targets) & {first, last}
    if name in CLASSES:
        assert CLASSES[name][0] < value <= CLASSES[name][1]
    if name.startswith("gap"):
        assert last - first == int(name[3:])
    if name in ("full", "extrapolation"):
        assert value >= 0.05


def test_entries_keep_their_promises():
    found = set()
    source = RoomsSource()
    for split, number in [(split, number) for split in ("seen", "new") for number in range(6)]:
        room = room_for(source, split, number)
        entries = room_entries(source, room)
        assert list(entries) == split_names(source) and room_entries(source, room) == entries
        for name, entry in entries.items():
            if entry is not None:
                found.add(name)
                check_entry(source, name, entry)
                assert entry["overlap"] == pytest.approx(overlaps(room, [tuple(entry["context"])])[0], abs=1e-6)
    assert found == set(split_names(source))


def test_no_pair_of_a_class_is_null():
    still = dataclasses.replace(SMALL, pan=[0.0, 0.0], drift=[0.0, 0.0], dolly=[0.0, 0.0])
    entries = room_entries(still, room_for(still, "seen", 0))
    assert entries["small"] is None and entries["medium"] is None and entries["gap9"] is not None


def test_targets_of_a_gap_are_spread_evenly():
    source = RoomsSource()
    entry = room_entries(source, room_for(source, "new", 1))["gap23"]
    assert entry is not None and entry["context"] == [0, 23] and entry["target"] == [6, 12, 17]


def test_draws_sample_distinct_numbers():
    draws = Draws(5)
    assert all(len(set(draws.sample(3, 5))) == 3 for _ in range(50))
    assert {draws.integer(2, 4) for _ in range(60)} == {2, 3, 4} and {draws.sign() for _ in range(30)} == {-1.0, 1.0}


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"fov": [60.0, 170.0]}, "source.fov"),
        ({"pan": [40.0, 20.0]}, "source.pan"),
        ({"dolly": [1.0]}, "source.dolly"),
        ({"texture_texels": -1}, "source.texture_texels"),
        ({"texture_density": [0.0, 0.2]}, "source.texture_density"),
        ({"jpeg_quality": 0}, "source.jpeg_quality"),
        ({"train_scenes": 0}, "source.train_scenes"),
        ({"frames": 5}, "source.frames"),
        ({"gaps": [12]}, "source.gaps"),
        ({"gaps": [2]}, "source.gaps"),
        ({"gaps": [6, 6]}, "source.gaps"),
        ({"supersample": 0}, "source.supersample"),
        ({"objects": [3, 99]}, "source.objects"),
    ],
)
def test_impossible_values_are_one_line(changes: dict, key: str, tmp_path: Path):
    with pytest.raises(ConfigError) as caught:
        generate(dataclasses.replace(SMALL, **changes), tmp_path / "out", workers=0, progress=False)
    assert str(caught.value).startswith(key) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_room_too_full_for_a_path_says_so():
    crowded = dataclasses.replace(SMALL, objects=[64, 64], dolly=[2.0, 2.0])
    check_source(crowded)
    with pytest.raises(ConfigError, match="no free camera path in room train/0"):
        room_for(crowded, "train", 0)


def test_unknown_split_is_refused():
    with pytest.raises(ConfigError, match="choose one of train, seen, new"):
        room_for(SMALL, "valid", 0)
