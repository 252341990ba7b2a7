"""The rooms' ray caster off the CPU: every tensor it makes must be where the rays are; and made-up textures.

No GPU is needed: PyTorch's device `meta` computes shapes alone, and refuses operands of two devices as a GPU does."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from novelview.config.compose import compose
from novelview.config.sources import RoomsSource
from novelview.errors import ConfigError
from novelview.scenes.procedural import rendering
from novelview.scenes.procedural.generate import generate
from novelview.scenes.procedural.layout import room_for
from novelview.scenes.procedural.rendering import (
    Tables,
    _coarser_needed,
    _seen,
    _to_bytes,
    pixel_rays,
    render_depth,
    render_frames,
    shade,
    trace,
    visible_solids,
)
from novelview.scenes.procedural.textures import HELD_OUT, TRAINING, Textures, pattern, photographs, pool, textures
from novelview.stages.download import _traced_on

SOURCE: RoomsSource = compose("download", ["source=rooms_mini"]).source
SMALL = replace(SOURCE, frames=12, gaps=[6, 9], train_scenes=2, test_seen_scenes=1, test_new_scenes=1, patterns=2)


def test_no_tensor_of_a_frame_stays_on_the_cpu() -> None:
    room = room_for(SOURCE, "new", 0)
    bank = textures(room.photographs, 0)
    there = Textures(*(value.to("meta") for value in (bank.texels, bank.starts, bank.sizes)))
    origin, direction = pixel_rays(room.c2w[:2], room.intrinsics, 16, 24, "meta")
    depth, solid = trace(room.solids, origin, direction, visible_solids(room, room.c2w[:2]))
    colour = shade(Tables.of(room, "meta"), there, origin, direction, depth, solid, 0.01)
    frames = _to_bytes(colour.reshape(2, 8, 2, 12, 2, 4))
    assert {value.device.type for value in (origin, direction, depth, solid, colour, frames)} == {"meta"}
    assert frames.shape == (2, 8, 12, 3) and frames.dtype == torch.uint8


def test_meta_refuses_what_a_gpu_refuses() -> None:
    room = room_for(SOURCE, "new", 0)
    origin, direction = pixel_rays(room.c2w[:2], room.intrinsics, 16, 24, "meta")
    with pytest.raises(RuntimeError, match="device"):
        trace(room.solids, origin.new_zeros(2, 3, device="cpu"), direction)


def test_depth_and_overlap_stay_where_the_rays_are() -> None:
    room = room_for(SOURCE, "seen", 1)
    assert render_depth(room, room.c2w[:3], room.intrinsics, 10, 12, "meta").device.type == "meta"
    origin, direction = pixel_rays(room.c2w, room.intrinsics, 24, 24, "meta")
    points = origin.T[:, :, None] + direction
    frames = torch.zeros(5, dtype=torch.long, device="meta")
    assert _seen(room, points[:, frames], frames, origin[frames]).shape == (5, 24 * 24)


def test_mip_levels_that_nothing_needs_change_no_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    room = room_for(replace(SOURCE, texture_texels=4), "new", 0)
    asked: list[bool] = []
    monkeypatch.setattr(rendering, "_coarser_needed", lambda level: asked.append(bool((level > 0).any())) or asked[-1])
    on_a_cpu = render_frames(room, room.c2w[:1], 128, 128, 4)
    monkeypatch.setattr(rendering, "_coarser_needed", lambda level: True)  # as on a GPU, which is not asked
    assert torch.equal(on_a_cpu, render_frames(room, room.c2w[:1], 128, 128, 4))
    assert False in asked, "every pixel needed a coarser level, so nothing was compared"
    assert _coarser_needed(torch.zeros(3, device="meta")) and not _coarser_needed(torch.zeros(3))


def test_patterns_stand_behind_the_training_photographs_alone() -> None:
    assert pool("train") == TRAINING and pool("new", 8) == HELD_OUT
    names = pool("seen", 3)
    assert names == (*TRAINING, "pattern-0", "pattern-1", "pattern-2") and photographs(names) == len(TRAINING)
    rooms = [room_for(SOURCE, "train", number) for number in range(20)]
    used = [face.texture for room in rooms for solid in room.solids[1:] for face in solid.faces[:1]]
    made_up = np.mean([texture >= len(TRAINING) for texture in used])
    assert 0.35 < made_up < 0.65 and max(used) < len(TRAINING) + SOURCE.patterns
    held_out = [room_for(SOURCE, "new", number) for number in range(5)]
    assert all(face.texture < len(HELD_OUT) for room in held_out for solid in room.solids for face in solid.faces)


def test_rooms_without_patterns_are_those_of_before() -> None:
    plain = RoomsSource()
    room = room_for(plain, "train", 7)
    assert [face.texture for face in room.solids[0].faces] == [1, 6, 4, 6, 7, 7]
    assert room.c2w[0, :3, 3].tolist() == pytest.approx([-2.84248, 0.0927618, -1.32766], abs=1e-5)


def test_a_pattern_is_a_picture_of_its_number_alone() -> None:
    one, again, other = (pattern(f"pattern-{number}", 64) for number in (4, 4, 5))
    assert one is not None and again is not None and other is not None and one.size == (64, 64)
    assert one.tobytes() == again.tobytes() != other.tobytes()
    values = np.stack([np.asarray(pattern(f"pattern-{number}", 64), dtype=float) for number in range(8)])
    assert (values.std(axis=(1, 2, 3)) > 15).all() and 60 < values.mean() < 200
    assert pattern("coffee.png", 64) is None


def test_rooms_of_the_mini_scale_are_written_the_same_twice(tmp_path) -> None:
    for name in ("one", "two"):
        generate(replace(SMALL, height=48, width=48), tmp_path / name, 0, progress=False)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    chunks = [file for file in files if file.parts[0] == "train" and file.suffix == ".torch"]
    assert len(chunks) == 2  # a chunk a room: shares of chunks are shares of rooms
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)


def test_a_number_of_patterns_out_of_range_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"source\.patterns=-1: must lie in \[0, 1024\]"):
        generate(replace(SMALL, patterns=-1), None, 0, progress=False)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("scale", "device", "there", "expected"),
    [
        ("mini", "auto", True, {"device": "cuda"}),
        ("mini", "auto", False, {}),
        ("mini", "cpu", True, {}),
        ("demo", "auto", True, {}),
        ("demo", "cuda", True, {"device": "cuda"}),
    ],
)
def test_rooms_are_traced_on_a_gpu_where_there_is_one(
    scale: str, device: str, there: bool, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    source = "rooms_mini" if scale == "mini" else "rooms"
    assert (
        _traced_on(compose("download", [f"scale={scale}", f"source={source}", f"runtime.device={device}"])) == expected
    )


def test_a_gpu_that_is_not_there_is_one_line() -> None:
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match=r"runtime\.device=cuda: no usable GPU here"):
            _traced_on(compose("download", ["source=rooms", "runtime.device=cuda"]))
