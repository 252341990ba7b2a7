"""The eased camera path of a clip: no jump of place, speed or turn, no frame twice, all of it in the encoded file.
Camera-path videos: frames come back in order and size, equal frames give equal bytes, nothing partial is left."""

import math
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from tiny_models import model_of, views
from torch import Tensor

from novelview.cameras.paths import interpolate
from novelview.cameras.poses import encoding_to_c2w
from novelview.config.schema import EvalConfig
from novelview.errors import DataError
from novelview.evaluation import clips
from novelview.evaluation.clips import FPS, clip, enlarge, even_sides, there_and_back, write_video

FRAMES = 24


def cameras(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    encoding = torch.rand(count, 7, generator=generator, dtype=torch.float64)
    encoding[:, 3:] = torch.tensor([1.0, 0, 0, 0]) + 0.3 * torch.rand(count, 4, generator=generator)
    lenses = 40 + 10 * torch.rand(count, 4, generator=generator, dtype=torch.float64)
    return encoding_to_c2w(encoding), lenses


def turns(rotations: Tensor) -> Tensor:
    """Return the rotation vectors (radians) from each rotation to the next, in the frame of the first."""
    step = rotations[:-1].transpose(1, 2) @ rotations[1:]
    angle = ((step.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1).arccos()
    axis = torch.stack([step[:, 2, 1] - step[:, 1, 2], step[:, 0, 2] - step[:, 2, 0], step[:, 1, 0] - step[:, 0, 1]], 1)
    return axis / (2 * torch.sinc(angle / math.pi))[:, None]


def closed(values: Tensor) -> Tensor:
    """Repeat the first two values at the end: a loop is watched again and again."""
    return torch.cat([values, values[:2]])


@pytest.mark.parametrize("count", [2, 3])
def test_a_loop_has_no_jerk_anywhere(count: int) -> None:
    c2w, lenses = cameras(count)
    poses, zooms = interpolate(c2w, lenses, FRAMES, loop=True, ease=True)
    assert len(poses) == len(zooms) == FRAMES * count
    ends = torch.cat([c2w, c2w[:1]])
    reach = (ends[1:, :3, 3] - ends[:-1, :3, 3]).norm(dim=1).max()
    turn = turns(ends[:, :3, :3]).norm(dim=1).max()
    bound = (math.pi / FRAMES) ** 2 / 2  # of the second difference of (1 - cos(pi t)) / 2
    for values, size in ((closed(poses[:, :3, 3]), reach), (closed(zooms), 20.0)):
        assert values.diff(n=2, dim=0).norm(dim=1).max() <= 1.001 * bound * size
    speed = turns(closed(poses[:, :3, :3]))
    assert speed.diff(dim=0).norm(dim=1).max() <= 1.01 * bound * turn
    apart = (closed(poses)[1:] - closed(poses)[:-1]).abs().amax(dim=(1, 2))
    assert apart.min() > 1e-4  # no frame stands still


def test_the_published_path_stops_where_the_eased_one_does_not() -> None:
    c2w, lenses = cameras(2)
    bound = (math.pi / FRAMES) ** 2 / 2 * (c2w[1, :3, 3] - c2w[0, :3, 3]).norm()
    poses, _ = interpolate(c2w, lenses, FRAMES, loop=True)
    assert torch.equal(poses[FRAMES - 1], poses[FRAMES])
    assert closed(poses[:, :3, 3]).diff(n=2, dim=0).norm(dim=1).max() > 4 * bound


def test_the_way_back_between_two_cameras_is_the_way_there_mirrored() -> None:
    c2w, lenses = cameras(2)
    poses, zooms = interpolate(c2w, lenses, FRAMES, ease=True)
    order = there_and_back(FRAMES + 1)
    loop, loop_zooms = interpolate(c2w, lenses, FRAMES, loop=True, ease=True)
    assert torch.allclose(poses[order], loop, atol=1e-9) and torch.allclose(zooms[order], loop_zooms, atol=1e-9)


@pytest.mark.parametrize("loop", [False, True])
def test_the_eased_path_passes_every_camera(loop: bool) -> None:
    c2w, lenses = cameras(3)
    poses, zooms = interpolate(c2w, lenses, FRAMES, loop=loop, ease=True)
    for number, (pose, lens) in enumerate(zip(c2w, lenses, strict=True)):
        assert torch.allclose(poses[FRAMES * number], pose) and torch.allclose(zooms[FRAMES * number], lens)
    assert len(poses) == 3 * FRAMES if loop else 2 * FRAMES + 1


@torch.no_grad()
def test_every_frame_is_in_the_file_once_at_a_steady_rate(tmp_path: Path) -> None:
    model, context = model_of("lvsm_decoder_only"), views(2, 1, (28, 28), 1)
    frames = clip(model, context, EvalConfig(video_frames=4, video_ease=True))
    write_video(tmp_path / "path.mp4", frames)
    with av.open(str(tmp_path / "path.mp4")) as container:
        stream = container.streams.video[0]
        shown = list(container.decode(video=0))
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
        assert stream.average_rate == FPS and len(shown) == len(frames) == 8
    times = np.array([float(frame.time) for frame in shown])
    assert np.allclose(np.diff(times), 1 / FPS)
    for written, seen in zip(frames, shown, strict=True):
        assert np.abs(seen.to_ndarray(format="rgb24").astype(float) - written).mean() < 8
    content = (tmp_path / "path.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # a page's player starts before it has the whole file


def ramp(count: int, height: int, width: int) -> np.ndarray:
    grey = np.linspace(30, 220, count).round().astype(np.uint8)
    return np.broadcast_to(grey[:, None, None, None], (count, height, width, 3)).copy()


def read(path) -> tuple[np.ndarray, float, str]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)])
        return frames, float(stream.average_rate), stream.codec_context.pix_fmt


@pytest.mark.parametrize(("height", "width"), [(56, 56), (57, 35)])
def test_frames_come_back(tmp_path, height, width):
    frames = ramp(9, height, width)
    write_video(tmp_path / "path.mp4", frames, fps=30)
    found, rate, pixels = read(tmp_path / "path.mp4")
    assert found.shape == (9, height + height % 2, width + width % 2, 3)
    assert (rate, pixels) == (30.0, "yuv420p")
    assert np.abs(found.astype(int) - even_sides(frames).astype(int)).max() <= 4


def test_equal_frames_give_equal_bytes(tmp_path):
    for name in ("one.mp4", "two.mp4"):
        write_video(tmp_path / name, ramp(5, 32, 48))
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()


def test_equal_frames_give_equal_bytes_whatever_memory_held(tmp_path):
    """libx264's macroblock tree reads memory it never wrote: clean memory alone hides that."""
    random = np.random.default_rng(3)
    frames = np.cumsum(random.integers(-6, 7, (24, 64, 96, 3)), axis=0).clip(-100, 100).astype(np.int16) + 128
    found = set()
    for attempt in range(14):
        write_video(tmp_path / "path.mp4", frames.astype(np.uint8))
        found.add((tmp_path / "path.mp4").read_bytes())
        dirty = [random.integers(0, 256, size, np.uint8) for size in random.integers(2**8, 2**20, 60 + attempt)]
        del dirty
    assert len(found) == 1


def test_plays_without_h264(tmp_path, monkeypatch):
    monkeypatch.setattr(clips, "CODECS", {"mpeg4": clips.CODECS["mpeg4"]})
    write_video(tmp_path / "path.mp4", ramp(4, 32, 32))
    assert len(read(tmp_path / "path.mp4")[0]) == 4


def test_an_empty_clip_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(DataError, match="at least one frame"):
        write_video(tmp_path / "path.mp4", ramp(0, 8, 8))
    assert not list(tmp_path.iterdir())


def test_an_interrupted_encoding_leaves_nothing(tmp_path):
    frames = ramp(4, 32, 32)
    with pytest.raises(ValueError):
        write_video(tmp_path / "path.mp4", frames[..., :2])
    assert not list(tmp_path.iterdir())


def test_odd_sides_repeat_their_edge():
    frames = np.arange(3 * 5 * 3, dtype=np.uint8).reshape(1, 3, 5, 3)
    padded = even_sides(frames)
    assert padded.shape == (1, 4, 6, 3)
    np.testing.assert_array_equal(padded[:, 3], padded[:, 2])
    np.testing.assert_array_equal(padded[:, :3, :5], frames)


def test_small_frames_are_enlarged_by_whole_pixels():
    assert enlarge(ramp(1, 56, 112)).shape == (1, 224, 448, 3)
    assert enlarge(ramp(1, 126, 126)).shape == (1, 252, 252, 3)
    assert enlarge(ramp(1, 518, 518)).shape == (1, 518, 518, 3)
