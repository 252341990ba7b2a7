"""A video as photographs: frames drawn evenly, of each interval the sharpest, turned as the camera says."""

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from novelview.errors import DataError, missing_extra, raise_exhausted

logger = logging.getLogger(__name__)
VIDEOS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".3gp", ".mts")
LOOKED_AT = 640  # pixels of the longer side at which sharpness is measured
WHOLE = 0.9  # share of its announced length up to which a video must have pictures
QUALITY = 97


@contextmanager
def as_photographs(path: Path, frames: int, progress: bool = False) -> Iterator[Path]:
    """Yield `path`, or for a video the folder of its pictures, which is gone afterwards; DataError for a bad video."""
    if path.suffix.lower() not in VIDEOS or not path.is_file():
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="novelview-video-") as work:
        folder = Path(work) / path.stem
        folder.mkdir()
        draw_frames(path, frames, folder, progress)
        yield folder


def draw_frames(path: Path, frames: int, folder: Path, progress: bool = False) -> None:
    """Write `frames` JPEGs of a video to `folder`, called by their second; DataError for what is no whole video."""
    try:
        import av
        from av.error import FFmpegError
    except ModuleNotFoundError as error:
        raise DataError(missing_extra(error) or str(error)) from None
    try:
        with av.open(str(path)) as container:
            stream = next(iter(container.streams.video), None)
            if stream is None:
                raise DataError(f"{path}: has no pictures, only sound; give a video")
            seconds = container.duration / av.time_base if container.duration else 0.0
            if not seconds > 0:
                raise DataError(f"{path}: does not say how long it is; convert it, for instance to MP4")
            stream.thread_type = "AUTO"
            bar = tqdm(container.decode(stream), "video", unit="frame", disable=not progress)
            start = float((stream.start_time or 0) * (stream.time_base or 0))
            timed = ((frame.time - start, frame) for frame in bar if frame.time is not None)
            found, last = 0, 0.0
            for _, group in groupby(timed, lambda item: min(frames - 1, int(item[0] / seconds * frames))):
                last, best = max(group, key=lambda item: _sharpness(item[1]))
                name = f"{path.stem}-{last:09.3f}s.jpg"
                _upright(best, stream).save(folder / name, quality=QUALITY)
                found += 1
    except (FFmpegError, OSError, ValueError) as error:
        if not isinstance(error, MemoryError):  # a damaged header asks for any amount of it
            raise_exhausted(error, path)
        raise DataError(f"{path}: unreadable video ({error}); convert it, for instance to MP4") from None
    if last < WHOLE * seconds - 1:
        raise DataError(f"{path}: ends after {last:.1f} of {seconds:.1f} seconds; copy it again")
    logger.info("%s: %d frames of %.1f seconds", path, found, seconds)


def _sharpness(frame) -> float:
    """Return the mean square of the Laplacian of a frame's brightness."""
    shrink = min(1.0, LOOKED_AT / max(frame.width, frame.height))
    small = frame.reformat(max(8, int(frame.width * shrink)), max(8, int(frame.height * shrink)), "gray")
    grey = small.to_ndarray().astype(np.float32)
    laplacian = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    return float(np.square(laplacian).mean())


def _upright(frame, stream) -> Image.Image:
    """Return a frame with square pixels, turned as the camera was held."""
    picture, shape = frame.to_image(), stream.sample_aspect_ratio
    if shape and shape != 1:
        picture = picture.resize((round(picture.width * float(shape)), picture.height), Image.Resampling.LANCZOS)
    return picture.rotate(frame.rotation, expand=True) if frame.rotation else picture
