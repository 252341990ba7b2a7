"""Camera-path videos: frames come back in order and size, equal frames give equal bytes, nothing partial is left."""

import av
import numpy as np
import pytest

from novelview.errors import DataError
from novelview.evaluation import clips
from novelview.evaluation.clips import enlarge, even_sides, write_video


def ramp(count: int, height: int, width: int) -> np.ndarray:
    """Frames of one grey each, brighter and brighter."""
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
