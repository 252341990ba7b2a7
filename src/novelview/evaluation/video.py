"""MP4 files of a camera path, through PyAV."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from novelview.errors import DataError
from novelview.files import replacing

if TYPE_CHECKING:
    from av.container import OutputContainer
    from av.video.stream import VideoStream

FPS = 30  # of a film whose configuration says nothing else (EvalConfig.video_fps)
MIN_SIDE = 224  # smaller frames are enlarged by whole pixels, so players do not blur them
CODECS = {  # the first that PyAV was built with; browsers play H.264
    # Without mbtree=0 the same frames give other bytes once memory is dirty: docs/quirks.md, "Libraries".
    "libx264": {"crf": "16", "preset": "medium", "threads": "1", "x264-params": "mbtree=0"},
    "libopenh264": {"rc_mode": "quality"},
    "mpeg4": {"qscale": "2", "threads": "1"},
}


def write_video(path: Path | str, frames: UInt8[np.ndarray, "n h w 3"], fps: int = FPS) -> None:
    """Write RGB frames as MP4 (H.264, yuv420p) to `path`, atomically; the same frames give the same bytes.

    Odd sides are padded by repeating the last row or column, as yuv420p needs even ones. Raises DataError for an
    empty clip.
    """
    try:
        import av  # here, because a bare machine (docs/mini.md) has none and makes no videos
    except ModuleNotFoundError:
        advice = "pip install 'novelview[figures]', or set eval.video_scenes=0"
        raise DataError(f"{path}: videos need PyAV: {advice}") from None
    if not len(frames):
        raise DataError(f"{path}: a video needs at least one frame")
    even = even_sides(frames)
    # +faststart moves the index to the front, where a page's player looks for it
    options = {"movflags": "+faststart", "fflags": "+bitexact"}
    with replacing(path) as partial, av.open(str(partial), "w", format="mp4", options=options) as container:
        stream = _stream(container, even.shape[2], even.shape[1], fps)
        for picture in even:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode(None))


def _stream(container: OutputContainer, width: int, height: int, fps: int) -> VideoStream:
    import av

    codec = next(name for name in CODECS if name in av.codecs_available)
    stream = container.add_stream(codec, rate=Fraction(fps), options=CODECS[codec])
    assert isinstance(stream, av.VideoStream)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    return stream


def even_sides(frames: UInt8[np.ndarray, "n h w 3"]) -> UInt8[np.ndarray, "n a b 3"]:
    """Pad odd heights and widths by one, repeating the edge."""
    height, width = frames.shape[1:3]
    return np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def enlarge(frames: UInt8[np.ndarray, "n h w 3"], side: int = MIN_SIDE) -> UInt8[np.ndarray, "n a b 3"]:
    """Repeat pixels until the shorter side has at least `side` of them."""
    factor = -(-side // min(frames.shape[1:3]))
    return frames.repeat(factor, axis=1).repeat(factor, axis=2)
